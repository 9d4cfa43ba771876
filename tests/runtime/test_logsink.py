"""The log sink: chunks soon, lines whole, everything bounded. Trio's own clock is moved, not waited for."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import trio
import trio.testing

from taskman.runtime.logsink import HIGH_WATER, LogSink
from taskman.store.logs import Chunk


class Receiver:
    """Keeps what a sink delivers; `wanted` is what it answers."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.times: list[float] = []
        self.wanted = True
        self.gate = trio.Event()
        self.gate.set()

    async def send(self, chunks: list[Chunk]) -> bool:
        await self.gate.wait()
        self.chunks += chunks
        self.times.append(trio.current_time())
        return self.wanted

    @property
    def data(self) -> bytes:
        return b"".join(chunk.data for chunk in self.chunks)


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


async def deliver(sink: LogSink, write: Callable[[], None]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run)
        write()
        sink.close()


async def test_lines_leave_together_after_a_tenth_of_a_second(autojump_clock: object, receiver: Receiver) -> None:
    sink = LogSink(receiver.send)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run)
        sink.write("out", b"one\n")
        await trio.sleep(0.05)
        sink.write("out", b"two\n")
        await trio.sleep(1)
        assert [chunk.data for chunk in receiver.chunks] == [b"one\ntwo\n"]
        assert receiver.times[0] - began == pytest.approx(0.1)
        sink.close()


async def test_the_beginning_of_a_line_leaves_after_a_second(autojump_clock: object, receiver: Receiver) -> None:
    sink = LogSink(receiver.send)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run)
        sink.write("out", b"password: ")
        await trio.sleep(0.9)
        assert receiver.chunks == []
        await trio.sleep(0.2)
        assert receiver.data == b"password: "
        sink.write("out", b"ok\n")
        sink.close()
    assert [chunk.first_line for chunk in receiver.chunks] == [1, 2]


async def test_chunks_and_lines_are_numbered_without_a_hole(receiver: Receiver) -> None:
    sink = LogSink(receiver.send)
    text = b"".join(b"line %d\n" % number for number in range(1, 20_001))
    await deliver(sink, lambda: sink.write("out", text))
    assert receiver.data == text
    assert [chunk.seq for chunk in receiver.chunks] == list(range(1, len(receiver.chunks) + 1))
    line = 1
    for chunk in receiver.chunks:
        assert chunk.first_line == line
        assert len(chunk.data) <= 16_384
        assert chunk.data.endswith(b"\n")
        line += chunk.data.count(b"\n")


async def test_binary_output_without_a_newline_arrives_as_it_came(receiver: Receiver) -> None:
    sink, data = LogSink(receiver.send), os.urandom(300_000).replace(b"\n", b"")
    await deliver(sink, lambda: [sink.write("out", data[at : at + 7000]) for at in range(0, len(data), 7000)] and None)
    assert receiver.data == data


async def test_a_slow_store_cuts_no_line_of_a_writer_that_waits_for_it(
    autojump_clock: object, receiver: Receiver
) -> None:
    sink = LogSink(receiver.send)
    receiver.gate = trio.Event()

    async def flood() -> None:
        await sink.output("out", b"x" * HIGH_WATER + b"\nbegun")
        await sink.output("out", b" and ended\n")
        sink.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run)
        nursery.start_soon(flood)
        await trio.sleep(10)
        receiver.gate.set()
    assert receiver.chunks[-1].data == b"begun and ended\n"


async def test_streams_keep_their_order(receiver: Receiver) -> None:
    sink = LogSink(receiver.send)

    def write() -> None:
        for stream, data in (("out", b"a\n"), ("err", b"b\n"), ("out", b"c\n"), ("out", b"d")):
            sink.write(stream, data)

    await deliver(sink, write)
    assert [(chunk.stream, chunk.data) for chunk in receiver.chunks] == [
        ("out", b"a\n"),
        ("err", b"b\n"),
        ("out", b"c\nd"),
    ]


async def test_a_flood_waits_for_its_reader(receiver: Receiver) -> None:
    sink = LogSink(receiver.send)
    receiver.gate = trio.Event()
    taken = 0

    async def flood() -> None:
        nonlocal taken
        for _ in range(64):
            await sink.output("out", b"x" * 65_535 + b"\n")
            taken += 65_536
        sink.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run)
        nursery.start_soon(flood)
        await trio.testing.wait_all_tasks_blocked()
        assert taken <= HIGH_WATER + 65_536
        receiver.gate.set()
    assert len(receiver.data) == 64 * 65_536


async def test_what_a_writer_that_does_not_wait_floods_is_left_out_and_said_in_its_place(receiver: Receiver) -> None:
    sink, line = LogSink(receiver.send), b"x" * 1023 + b"\n"
    receiver.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run)
        sink.write("out", b"begun")
        for _ in range(8192):
            sink.write("err", line)
        receiver.gate.set()
        await trio.testing.wait_all_tasks_blocked()
        sink.write("out", b"the end\n")
        sink.close()
    before, note, after = receiver.chunks[-3:]
    assert (before.data, after.data) == (b"begun", b"the end\n")
    kept = sum(len(chunk.data) for chunk in receiver.chunks if chunk.stream == "err")
    assert 8 * HIGH_WATER <= kept <= 8 * HIGH_WATER + len(line)
    assert note.data.startswith(b"left out here: %s bytes" % f"{8192 * 1024 - kept:,}".encode())


async def test_pieces_of_a_few_bytes_count_for_what_they_cost(receiver: Receiver) -> None:
    sink, taken = LogSink(receiver.send), 0
    receiver.gate = trio.Event()

    async def flood() -> None:
        nonlocal taken
        for _ in range(20_000):
            await sink.output("out", b"o\n")
            await sink.output("err", b"e\n")
            taken += 2
        sink.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run)
        nursery.start_soon(flood)
        await trio.testing.wait_all_tasks_blocked()
        assert taken < 16_000
        receiver.gate.set()
    assert len(receiver.chunks) == 40_000


async def test_unfinished_lines_of_two_streams_keep_nobody_busy(autojump_clock: object, receiver: Receiver) -> None:
    sink = LogSink(receiver.send)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run)
        for stream in ("out", "err"):
            sink.write(stream, b"x" * 12_000)
        await trio.testing.wait_all_tasks_blocked()
        assert receiver.chunks == []
        await trio.sleep(1.1)
        assert [len(chunk.data) for chunk in receiver.chunks] == [12_000, 12_000]
        sink.close()


async def test_a_sink_that_nobody_wants_any_more_lets_its_writer_go(receiver: Receiver) -> None:
    sink = LogSink(receiver.send)
    receiver.wanted = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run)
        with trio.fail_after(5):
            for _ in range(100):
                await sink.output("out", b"x" * 65_536)
        sink.close()
    assert len(receiver.data) < 2_000_000
