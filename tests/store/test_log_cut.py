"""The limit of a run's log: both ends stay, the middle goes, and readers are told exactly what is missing."""

from __future__ import annotations

import re

import pytest
import trio

from taskman.model.ids import new_run_id
from taskman.model.loglines import LogLine
from taskman.model.run import RunSpec
from taskman.store.logs import Chunk
from taskman.store.runs import Outcome, Submission
from taskman.store.store import Store
from taskman.web.logs import LogReader, Position, as_bytes, lines_of
from taskman.web.pages.logview import log_view

LIMIT = 256 * 1024
SIZE = 8192
START = Position(1)


@pytest.fixture
async def store(redis_url: str, nursery: trio.Nursery) -> Store:
    store = Store(redis_url, log_limit=LIMIT)
    await nursery.start(store.run)
    return store


@pytest.fixture
async def running(store: Store) -> str:
    return await start(store)


async def start(store: Store) -> str:
    spec = RunSpec(type="shell", params={})
    run_id = (await store.runs.submit([Submission(new_run_id(), spec)], by="test"))[0].run_id
    await store.runs.claim("w1", 1, [spec.signature], lease_ms=40_000)
    return run_id


def chunk(seq: int, size: int = SIZE, stream: str = "out") -> Chunk:
    """A chunk of two lines, `size` bytes in all."""
    text = b"%d " % seq
    data = (text * size)[: size // 2 - 1] + b"\n" + (text * size)[: size - size // 2 - 1] + b"\n"
    return Chunk(seq, 1000 + seq, stream, 2 * seq - 1, data)


async def fill(store: Store, run_id: str, count: int, *, attempt: int = 1, first: int = 1, size: int = SIZE) -> None:
    for seq in range(first, count + 1, 16):
        some = [chunk(n, size) for n in range(seq, min(seq + 16, count + 1))]
        assert await store.logs.append(run_id, attempt, "w1", some)


async def reader_of(store: Store, run_id: str, start: Position = START, *, follow: bool = False) -> LogReader:
    return await LogReader(store, await store.runs.get(run_id), start, follow=follow).open()


async def lines(reader: LogReader) -> list[LogLine]:
    found: list[LogLine] = []
    try:
        while True:
            found += lines_of(await reader.receive())
    except trio.EndOfChannel:
        return found


async def text(reader: LogReader) -> bytes:
    found = b""
    try:
        while True:
            found += as_bytes(await reader.receive())
    except trio.EndOfChannel:
        return found


async def test_the_first_quarter_and_the_end_stay(store: Store, running: str) -> None:
    await fill(store, running, 100)
    kept = [one.seq for one in await store.logs.read(running, 1, limit=1000)]
    assert kept == [*range(1, 9), *range(77, 101)]
    assert len(kept) * SIZE == LIMIT


async def test_a_log_of_exactly_the_limit_is_whole(store: Store, running: str) -> None:
    await fill(store, running, LIMIT // SIZE)
    assert await store.logs.read(running, 1, limit=1000) == [chunk(n) for n in range(1, LIMIT // SIZE + 1)]


async def test_the_marker_says_exactly_what_is_missing(store: Store, running: str) -> None:
    await fill(store, running, 100)
    found = await lines(await reader_of(store, running))
    marker = found[16]
    assert (marker.line, marker.stream, marker.missing) == (152, "sys", 136)
    assert marker.text.startswith("left out here: 557,056 bytes in 136 lines (17 to 152),")
    assert [line.line for line in found] == [*range(1, 17), 152, *range(153, 201)]
    assert marker.to_json(1)["missing"] == 136


async def test_plain_text_has_the_exact_bytes_around_the_marker(store: Store, running: str) -> None:
    data = [bytes([65 + seq % 26]) * SIZE for seq in range(1, 101)]
    await store.logs.append(running, 1, "w1", [Chunk(n, n, "out", n, one) for n, one in enumerate(data, 1)])
    found = await text(await reader_of(store, running))
    head, marker, tail = re.fullmatch(rb"(.*)\n(left out here: .*)\n(.*)", found).groups()  # type: ignore[union-attr]
    assert head == b"".join(data[:8])
    assert tail == b"".join(data[76:])
    assert f"{sum(map(len, data)) - len(head) - len(tail):,} bytes".encode() in marker


@pytest.mark.parametrize("after", [0, 3, 16, 17, 100, 151, 152, 153, 190, 199, 200, 500])
async def test_reading_on_from_any_line_has_no_gap_and_no_repeat(store: Store, running: str, after: int) -> None:
    await fill(store, running, 100)
    whole = await lines(await reader_of(store, running))
    rest = await lines(await reader_of(store, running, Position(1, after)))
    assert rest == [line for line in whole if line.line > after]


async def test_a_repeated_append_is_neither_stored_nor_counted_again(store: Store, running: str) -> None:
    await fill(store, running, 32)
    await store.logs.append(running, 1, "w1", [chunk(n) for n in range(20, 33)])
    assert len(await store.logs.read(running, 1, limit=1000)) == 32
    await fill(store, running, 64, first=33)
    await store.logs.append(running, 1, "w1", [chunk(n) for n in range(1, 65)])
    assert [one.seq for one in await store.logs.read(running, 1, limit=99)] == [*range(1, 9), *range(41, 65)]


async def test_chunks_of_a_few_bytes_cannot_fill_redis(store: Store, running: str) -> None:
    for first in range(1, 40_001, 2000):
        some = [Chunk(n, n, "out" if n % 2 else "err", n, b"x\n") for n in range(first, first + 2000)]
        await store.logs.append(running, 1, "w1", some)
    assert len(await store.logs.read(running, 1, limit=100_000)) == LIMIT // 64
    used = await store.connection.execute("MEMORY", "USAGE", f"tm:{{0}}:run:{running}:log", "SAMPLES", 0)
    assert used < 2 * LIMIT
    marker = (await lines(await reader_of(store, running)))[LIMIT // 64 // 4]
    assert marker.missing == 40_000 - LIMIT // 64


async def test_chunks_bigger_than_the_limit_leave_the_latest(store: Store, running: str) -> None:
    await store.logs.append(running, 1, "w1", [chunk(n, 2 * LIMIT) for n in (1, 2)])
    assert [one.seq for one in await store.logs.read(running, 1)] == [2]
    found = await lines(await reader_of(store, running))
    assert (found[0].line, found[0].missing) == (2, 2)


async def test_later_attempts_take_the_place_of_earlier_ones(store: Store, running: str) -> None:
    await fill(store, running, 60)
    for attempt in (2, 3):
        await store.runs.finish("w1", [Outcome(running, attempt - 1, "released")])
        await store.runs.claim("w1", 1, await store.runs.signatures(), lease_ms=40_000)
        await fill(store, running, 40, attempt=attempt)
    kept = [(n, [one.seq for one in await store.logs.read(running, n, limit=1000)]) for n in (1, 2, 3)]
    assert kept == [(1, [*range(1, 9)]), (2, []), (3, [*range(17, 41)])]
    assert await store.connection.execute("XLEN", f"tm:{{0}}:run:{running}:log") == LIMIT // SIZE
    markers = [
        [line for line in await lines(await reader_of(store, running, Position(n))) if line.missing] for n in (1, 2, 3)
    ]
    assert [[(one.line, one.missing) for one in some] for some in markers] == [[(120, 104)], [(80, 80)], [(32, 32)]]
    assert "425,984 bytes" in markers[0][0].text
    assert await lines(await reader_of(store, running, Position(1, 120))) == []


async def test_a_follower_that_keeps_up_sees_everything(store: Store, running: str) -> None:
    reader = await reader_of(store, running, follow=True)
    found: list[LogLine] = []
    for first in range(1, 101, 10):
        await store.logs.append(running, 1, "w1", [chunk(n) for n in range(first, first + 10)])
        while not found or found[-1].line < 2 * first + 18:
            found += lines_of(await reader.receive())
    reader.close()
    assert [line.line for line in found] == list(range(1, 201))


@pytest.mark.parametrize("seen", [4, 8, 20])
async def test_a_follower_that_falls_behind_is_told_what_it_missed(store: Store, running: str, seen: int) -> None:
    await fill(store, running, seen)
    reader = await reader_of(store, running, follow=True)
    found = list(lines_of(await reader.receive()))
    assert len(found) == 2 * seen
    await fill(store, running, 100, first=seen + 1)
    await store.runs.finish("w1", [Outcome(running, 1, "succeeded")])
    found += await lines(reader)
    reader.close()
    last_before = max(2 * seen, 16)
    expected = [*range(1, last_before + 1), 152, *range(153, 201)]
    assert [line.line for line in found] == expected
    assert [line.missing for line in found if line.missing] == [152 - last_before]


async def test_a_reader_whose_place_is_cut_out_while_it_is_found_reads_on(store: Store, running: str) -> None:
    await fill(store, running, 30)
    reader = await reader_of(store, running, Position(1, 40))
    located = reader._locate

    async def locate_then_flood() -> None:
        await located()
        if (await store.logs.read(running, 1, 99)) == []:
            await fill(store, running, 100, first=31)

    reader._locate = locate_then_flood  # type: ignore[method-assign]
    found = await lines(reader)
    assert (found[0].line, found[0].missing) == (152, 136)
    assert [line.line for line in found[1:]] == list(range(153, 201))


async def test_the_page_of_a_cut_log_leads_past_the_hole(store: Store, running: str) -> None:
    await fill(store, running, 100)
    run = await store.runs.get(running)
    view = await log_view(store, run, 1, tail=100)
    assert [line.line for block in view.blocks for line in block.lines][:2] == [152, 153]
    assert view.skipped == 16
    earlier = await log_view(store, run, 1, tail=100, until=view.skipped)
    assert [line.line for block in earlier.blocks for line in block.lines] == list(range(1, 17))


async def test_a_follower_of_a_run_that_was_forgotten_comes_to_the_end(store: Store, running: str) -> None:
    await fill(store, running, 10)
    reader = await reader_of(store, running, follow=True)
    await store.runs.finish("w1", [Outcome(running, 1, "succeeded")])
    assert await store.retention.forget_surplus([running], 0) == 1
    await reader._look()
    assert await lines(reader) == []
    reader.close()
