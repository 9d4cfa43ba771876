"""Floods of output from real processes, through a worker in a process of its own whose memory is watched."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio

from taskman.model.ids import new_run_id
from taskman.model.run import Run, RunSpec
from taskman.model.states import State
from taskman.store.blocks import Chunk
from taskman.store.runs import Submission
from taskman.store.store import Store
from taskman.web.logs import LogReader, Position, as_bytes, lines_of

LIMIT = 1024 * 1024
CHUNK = 16_384
MOST_MEMORY = 100 * 1024 * 1024
PROGRAM = Path(__file__).parent.parent / "lone_worker.py"


class LoneWorker:
    """The worker's process."""

    def __init__(self, pid: int, store: Store) -> None:
        self._pid, self._store = pid, store

    @property
    def most_memory(self) -> int:
        """The most that it ever had resident, bytes."""
        status = Path(f"/proc/{self._pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]

    async def run(self, command: str, within_s: float = 60) -> Run:
        """Run a command line to its end."""
        run_id = await self.submit(command)
        with trio.fail_after(within_s):
            while not (run := await self._store.runs.get(run_id)).is_final:
                await trio.sleep(0.02)
        return run

    async def submit(self, command: str) -> str:
        spec = RunSpec(type="shell", params={"command": command})
        return (await self._store.runs.submit([Submission(new_run_id(), spec)], by="test"))[0].run_id


@pytest.fixture
async def worker(redis_url: str, store: Store) -> AsyncIterator[LoneWorker]:
    command = [sys.executable, str(PROGRAM), redis_url, str(LIMIT)]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(partial(trio.run_process, command, stdout=subprocess.PIPE, check=False))
        assert await process.stdout.receive_some()
        yield LoneWorker(process.pid, store)
        process.kill()


async def chunks_of(store: Store, run: Run) -> list[Chunk]:
    return await store.logs.read(run.id, 1, limit=1_000_000)


async def text_of(store: Store, run: Run) -> bytes:
    reader = await LogReader(store, run, Position(1), follow=False).open()
    parts = []
    try:
        while True:
            parts.append(as_bytes(await reader.receive()))
    except trio.EndOfChannel:
        return b"".join(parts)


def halves(text: bytes) -> tuple[bytes, int, int, bytes]:
    """What stands before the marker, the bytes and lines that it says are missing, and what stands behind it."""
    found = re.fullmatch(rb"(.*\n)left out here: ([\d,]+) bytes in ([\d,]+) lines [^\n]+\n(.*)", text, re.DOTALL)
    assert found is not None
    size, lines = (int(found[n].replace(b",", b"")) for n in (2, 3))
    return found[1], size, lines, found[4]


async def zeros(worker: LoneWorker, store: Store, size: int, within_s: float) -> None:
    run = await worker.run(f"head -c {size} /dev/zero; exit 7", within_s)
    assert (run.state, run.reason, run.result["exit_code"]) == (State.FAILED, "exit", 7)
    head, missing, lines, tail = halves(await text_of(store, run))
    assert head == b"\0" * (len(head) - 1) + b"\n"
    assert LIMIT // 4 - CHUNK < len(head) - 1 <= LIMIT // 4, "the first quarter is kept, to one chunk"
    assert tail == b"\0" * len(tail)
    kept = len(head) - 1 + len(tail)
    assert LIMIT - 2 * CHUNK < kept <= LIMIT
    assert kept + missing == size
    assert lines == (await chunks_of(store, run))[-1].seq - len(await chunks_of(store, run))
    assert worker.most_memory < MOST_MEMORY
    assert await weight(store, run) < 1.4 * LIMIT


async def weight(store: Store, run: Run) -> int:
    key = store.logs.channel(run.id)
    return int(await store.connection.execute("MEMORY", "USAGE", key, "SAMPLES", 0))


async def test_64_mib_without_a_newline(worker: LoneWorker, store: Store) -> None:
    await zeros(worker, store, 64 * 1024 * 1024, 60)


@pytest.mark.slow
async def test_a_gib_without_a_newline(worker: LoneWorker, store: Store) -> None:
    await zeros(worker, store, 1024 * 1024 * 1024, 110)


async def test_a_million_short_lines(worker: LoneWorker, store: Store) -> None:
    run = await worker.run("seq 1000000")
    assert run.result["exit_code"] == 0
    head, missing, lines, tail = halves(await text_of(store, run))
    assert head == b"".join(b"%d\n" % n for n in range(1, head.count(b"\n") + 1))
    assert tail == b"".join(b"%d\n" % n for n in range(1_000_001 - tail.count(b"\n"), 1_000_001))
    assert head.count(b"\n") + lines + tail.count(b"\n") == 1_000_000
    assert len(head) + missing + len(tail) == sum(len(str(n)) + 1 for n in range(1, 1_000_001))
    assert LIMIT - 2 * CHUNK < len(head) + len(tail) <= LIMIT
    assert (await chunks_of(store, run))[-1].end_line == 1_000_001
    assert worker.most_memory < MOST_MEMORY


async def test_lines_behind_the_hole_have_their_true_numbers(worker: LoneWorker, store: Store) -> None:
    run = await worker.run("seq 400000")
    reader = await LogReader(store, run, Position(1), follow=False).open()
    lines = []
    try:
        while True:
            lines += lines_of(await reader.receive())
    except trio.EndOfChannel:
        pass
    markers = [line for line in lines if line.missing]
    assert [line.stream for line in markers] == ["sys"]
    assert all(int(line.text) == line.line for line in lines if not line.missing)
    assert lines[-1].line == 400_000
    assert len(lines) - 1 + markers[0].missing == 400_000


async def test_binary_output_is_kept_to_the_byte(worker: LoneWorker, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "random"
    assert (await worker.run(f"head -c {8 * 1024 * 1024} /dev/urandom > {path}")).state is State.SUCCEEDED
    data = await trio.Path(path).read_bytes()
    most = LIMIT - CHUNK  # a chunk of a few bytes counts for more: exactly at the limit there may be a cut
    small = await worker.run(f"head -c {most} {path}")
    assert hashlib.sha256(await text_of(store, small)).digest() == hashlib.sha256(data[:most]).digest()
    run = await worker.run(f"cat {path}")
    chunks = await chunks_of(store, run)
    assert all(data[chunk.offset : chunk.end_offset] == chunk.data for chunk in chunks)
    assert chunks[-1].end_offset == len(data)
    assert LIMIT - 2 * CHUNK < sum(len(chunk.data) for chunk in chunks) <= LIMIT
    before = await text_of(store, run)
    assert await store.logs.compact(run.id)
    assert await text_of(store, run) == before


async def test_colours_are_kept_as_they_came(worker: LoneWorker, store: Store) -> None:
    run = await worker.run(r"for n in 1 2 3; do printf '\033[3%dmred\033[0m\r\n' $n; done; printf '\033]0;title\007'")
    expected = b"".join(b"\033[3%dmred\033[0m\r\n" % n for n in (1, 2, 3)) + b"\033]0;title\007"
    assert await text_of(store, run) == expected


async def test_alternating_streams_keep_each_its_bytes(worker: LoneWorker, store: Store) -> None:
    program = "import os\nfor n in range(40000): os.write(1 + n % 2, b'%d\\n' % n)"
    run = await worker.run(f'{sys.executable} -c "{program}"')
    chunks = await chunks_of(store, run)
    assert sum(max(64, len(chunk.data)) for chunk in chunks) <= LIMIT
    total = sum(len(b"%d\n" % n) for n in range(40_000))
    assert chunks[-1].end_offset == total
    for stream, parity in (("out", 0), ("err", 1)):
        numbers = [int(n) for chunk in chunks if chunk.stream == stream for n in chunk.data.split()]
        assert numbers == sorted(numbers)
        assert {n % 2 for n in numbers} == {parity}
        assert numbers[-1] == 39_998 + parity
    assert worker.most_memory < MOST_MEMORY
    assert await weight(store, run) < 2 * LIMIT


async def test_whoever_follows_a_flood_sees_that_it_goes_on(worker: LoneWorker, store: Store) -> None:
    run_id = await worker.submit("i=0; while [ $i -lt 300 ]; do seq 20000; i=$((i+1)); done; echo the end")
    with trio.fail_after(60):
        while (run := await store.runs.get(run_id)).state is not State.RUNNING:
            await trio.sleep(0.01)
        reader = await LogReader(store, run, Position(1), follow=True).open()
        last, told, shown, text = 0, 0, 0, ""
        try:
            while True:
                for line in lines_of(await reader.receive()):
                    assert line.line == last + (line.missing or 1)
                    last, told, shown = line.line, told + line.missing, shown + (not line.missing)
                    text = line.text
        except trio.EndOfChannel:
            reader.close()
    assert (last, text) == (6_000_001, "the end")
    assert told + shown == last
