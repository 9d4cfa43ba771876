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


async def test_what_is_beyond_the_limit_is_left_out_and_said(receiver: Receiver) -> None:
    sink = LogSink(receiver.send, limit=1000)
    await deliver(sink, lambda: [sink.write("out", b"x" * 99 + b"\n") for _ in range(15)] and None)
    assert receiver.data.startswith((b"x" * 99 + b"\n") * 10)
    assert receiver.chunks[-1].stream == "sys"
    assert b"500 bytes more were not kept" in receiver.chunks[-1].data


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
