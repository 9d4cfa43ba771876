"""Compaction of the logs of final runs: less memory, and readers that cannot tell the difference."""

from __future__ import annotations

import os
import random

import pytest
import trio

from taskman.model.ids import new_run_id
from taskman.model.loglines import LogLine
from taskman.model.run import RunSpec
from taskman.runtime.retention import compact_logs
from taskman.store.blocks import pack, unpack
from taskman.store.logs import Chunk
from taskman.store.runs import Outcome, Submission
from taskman.store.store import Store
from taskman.web.logs import LogReader, Position, as_bytes, lines_of

START = Position(1)


async def start(store: Store) -> str:
    spec = RunSpec(type="shell", params={})
    run_id = (await store.runs.submit([Submission(new_run_id(), spec)], by="test"))[0].run_id
    await store.runs.claim("w1", 1, [spec.signature], lease_ms=40_000)
    return run_id


async def finish(store: Store, run_id: str, attempt: int = 1, outcome: str = "succeeded") -> None:
    await store.runs.finish("w1", [Outcome(run_id, attempt, outcome)])


async def append(store: Store, run_id: str, chunks: list[Chunk], attempt: int = 1) -> None:
    for first in range(0, len(chunks), 50):
        assert await store.logs.append(run_id, attempt, "w1", chunks[first : first + 50])


def mixed(count: int, seed: int = 1) -> list[Chunk]:
    """Chunks of every size and kind, numbered as a sink numbers them."""
    dice, made, line = random.Random(seed), [], 1
    for seq in range(1, count + 1):
        size = dice.choice([1, 40, 1000, 16_384])
        data = dice.choice(
            [dice.randbytes(size), b"line of text\n" * (size // 13 + 1), b"\n" * min(size, 90), b"x" * size]
        )[:16_384]
        made.append(Chunk(seq, 1_000_000 + seq, dice.choice(["out", "err", "sys"]), line, data))
        line = made[-1].end_line
    return made


async def keys(store: Store, run_id: str) -> tuple[bool, bool]:
    """Whether there are chunks, and whether there are blocks."""
    names = [f"tm:{{0}}:run:{run_id}:{kind}" for kind in ("log", "blocks")]
    chunks, blocks = await store.connection.execute_many([("EXISTS", name) for name in names])
    return bool(chunks), bool(blocks)


async def unpacked(store: Store) -> list[str]:
    return await store.logs.unpacked(100)


async def whole(store: Store, run_id: str, start: Position = START) -> tuple[list[LogLine], bytes]:
    reader = await LogReader(store, await store.runs.get(run_id), start, follow=False).open()
    lines: list[LogLine] = []
    data = b""
    try:
        while True:
            part = await reader.receive()
            lines += lines_of(part)
            data += as_bytes(part)
    except trio.EndOfChannel:
        return lines, data


def test_a_block_unpacks_to_what_was_packed() -> None:
    chunks = mixed(300)
    again = unpack(pack(chunks))
    assert again == chunks
    assert [one.offset for one in again] == [one.offset for one in chunks]


async def test_every_read_is_the_same_before_and_after(store: Store) -> None:
    run_id, chunks = await start(store), mixed(700)
    await append(store, run_id, chunks)
    await finish(store, run_id)
    assert await keys(store, run_id) == (True, False)

    async def reads() -> list[object]:
        seqs = [0, 1, 63, 64, 65, 300, 511, 512, 513, 699, 700, 701]
        found: list[object] = [await store.logs.read(run_id, 1, seq, limit) for seq in seqs for limit in (1, 64, 1000)]
        lines = [1, 2, 77, chunks[300].first_line, chunks[300].first_line + 1, chunks[-1].first_line, 10**6]
        found += [await store.logs.seq_before_line(run_id, 1, line) for line in lines]
        found += [await store.logs.line_before_tail(run_id, 1, count) for count in (0, 1, 500, 10**6)]
        return [
            *found,
            *[await whole(store, run_id, Position(1, line)) for line in lines],
            await store.logs.read(run_id, 2),
        ]

    before = await reads()
    assert await store.logs.compact(run_id)
    assert await keys(store, run_id) == (False, True)
    assert await reads() == before
    assert await store.logs.read(run_id, 1, limit=1000) == chunks


async def test_attempts_stay_apart_and_holes_stay_holes(redis_url: str, nursery: trio.Nursery) -> None:
    store = Store(redis_url, log_limit=256 * 1024)
    await nursery.start(store.run)
    run_id = await start(store)
    await append(store, run_id, mixed(100, 1))
    await finish(store, run_id, 1, "released")
    await store.runs.claim("w1", 1, await store.runs.signatures(), lease_ms=40_000)
    await append(store, run_id, mixed(200, 2), attempt=2)
    await finish(store, run_id, 2)
    before = [await whole(store, run_id, Position(n)) for n in (1, 2)]
    assert [sum(line.missing > 0 for line in lines) for lines, _ in before] == [1, 1]
    assert await store.logs.compact(run_id)
    assert [await whole(store, run_id, Position(n)) for n in (1, 2)] == before


async def test_a_run_that_is_not_final_is_left_alone(store: Store) -> None:
    run_id = await start(store)
    await append(store, run_id, mixed(50))
    assert await unpacked(store) == []
    assert not await store.logs.compact(run_id)
    assert await keys(store, run_id) == (True, False)
    await finish(store, run_id)
    assert await unpacked(store) == [run_id]


async def test_a_small_log_is_left_alone(store: Store) -> None:
    run_id = await start(store)
    await append(store, run_id, [Chunk(1, 1, "out", 1, b"x" * 4095)])
    await finish(store, run_id)
    assert await unpacked(store) == []


async def test_of_two_servers_one_compacts(store: Store) -> None:
    run_id, chunks = await start(store), mixed(200)
    await append(store, run_id, chunks)
    await finish(store, run_id)
    done: list[bool] = []

    async def compact() -> None:
        done.append(await store.logs.compact(run_id))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(compact)
    assert sorted(done) == [False, False, True]
    assert await store.logs.read(run_id, 1, limit=1000) == chunks
    assert await unpacked(store) == []


async def test_a_log_that_is_not_what_was_read_is_left_alone(store: Store) -> None:
    run_id = await start(store)
    await append(store, run_id, mixed(20))
    await finish(store, run_id)
    key = f"tm:{{0}}:run:{run_id}:log"
    script = store.logs._script
    for count, last in ((19, "1-20"), (20, "1-19")):
        assert await script("compact_log", run_id, count, last, "1-20", b"") == 0
    assert await store.connection.execute("XLEN", key) == 20


async def test_what_is_left_over_is_found(store: Store) -> None:
    ids = [await start(store) for _ in range(20)]
    for run_id in ids:
        await append(store, run_id, mixed(10))
        await finish(store, run_id)
    assert len(await unpacked(store)) == 20
    async with trio.open_nursery() as nursery:
        nursery.start_soon(compact_logs, store)
        with trio.fail_after(10):
            while await unpacked(store):
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert {await keys(store, run_id) for run_id in ids} == {(False, True)}


@pytest.mark.parametrize("parts_before", [0, 1, 3])
async def test_a_follower_reads_on_when_the_log_is_compacted_between_two_reads(store: Store, parts_before: int) -> None:
    run_id, chunks = await start(store), mixed(500)
    await append(store, run_id, chunks)
    reader = await LogReader(store, await store.runs.get(run_id), Position(1), follow=True).open()
    data = b"".join([as_bytes(await reader.receive()) for _ in range(parts_before)])
    await finish(store, run_id)
    assert await store.logs.compact(run_id)
    with trio.fail_after(5):
        try:
            while True:
                data += as_bytes(await reader.receive())
        except trio.EndOfChannel:
            reader.close()
    assert data == b"".join(chunk.data for chunk in chunks)


async def test_a_log_of_fifty_thousand_lines_shrinks(store: Store) -> None:
    run_id, dice = await start(store), random.Random(7)
    lines = [
        b"2026-07-01T12:%02d:%02d INFO worker.%d request %s took %d ms\n"
        % (n // 60 % 60, n % 60, n % 8, os.urandom(4).hex().encode(), dice.randrange(1000))
        for n in range(50_000)
    ]
    line, chunks = 1, []
    for seq, first in enumerate(range(0, len(lines), 250), 1):
        chunks.append(Chunk(seq, 1000 + seq, "out", line, b"".join(lines[first : first + 250])))
        line += 250
    await append(store, run_id, chunks)
    await finish(store, run_id)
    before = await memory(store, run_id, "log")
    assert await store.logs.compact(run_id)
    after = await memory(store, run_id, "blocks")
    print(f"{before:,} bytes before, {after:,} after")
    assert after < before / 3


async def memory(store: Store, run_id: str, kind: str) -> int:
    return int(await store.connection.execute("MEMORY", "USAGE", f"tm:{{0}}:run:{run_id}:{kind}", "SAMPLES", 0))
