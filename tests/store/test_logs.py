"""Logs against a real Redis: once, in order, from any line on."""

from __future__ import annotations

import pytest

from taskman.model.ids import new_run_id
from taskman.model.run import RunSpec
from taskman.store.logs import Chunk
from taskman.store.runs import Submission
from taskman.store.store import Store


@pytest.fixture
async def running(store: Store) -> str:
    run_id = new_run_id()
    spec = RunSpec(type="shell", params={})
    await store.runs.submit([Submission(run_id, spec)], by="test")
    await store.runs.claim("w1", 1, [spec.signature], lease_ms=40_000)
    return run_id


def chunks(*numbers: int) -> list[Chunk]:
    """Chunk n has ten lines, the first of them line 10n - 9."""
    return [
        Chunk(n, 1000 + n, "out", n * 10 - 9, b"".join(b"line %d\n" % line for line in range(n * 10 - 9, n * 10 + 1)))
        for n in numbers
    ]


async def test_chunks_read_back_in_order_and_once(store: Store, running: str) -> None:
    assert await store.logs.append(running, 1, "w1", chunks(1, 2))
    assert await store.logs.append(running, 1, "w1", chunks(1, 2, 3))
    assert await store.logs.read(running, 1) == chunks(1, 2, 3)
    assert await store.logs.read(running, 1, after_seq=2) == chunks(3)
    assert await store.logs.read(running, 1, limit=1) == chunks(1)


async def test_bytes_are_kept_as_they_came(store: Store, running: str) -> None:
    data = bytes(range(256))
    await store.logs.append(running, 1, "w1", [Chunk(1, 5, "err", 1, data)])
    assert (await store.logs.read(running, 1))[0].data == data


async def test_only_the_worker_that_holds_the_attempt_may_append(store: Store, running: str) -> None:
    assert not await store.logs.append(running, 1, "w2", chunks(1))
    assert not await store.logs.append(running, 2, "w1", chunks(1))
    assert not await store.logs.append(new_run_id(), 1, "w1", chunks(1))
    assert await store.logs.read(running, 1) == []


@pytest.mark.parametrize(("line", "seq"), [(1, 0), (10, 0), (11, 1), (95, 9), (1000, 9)])
async def test_a_line_is_found_by_bisection(store: Store, running: str, line: int, seq: int) -> None:
    await store.logs.append(running, 1, "w1", chunks(*range(1, 11)))
    assert await store.logs.seq_before_line(running, 1, line) == seq


async def test_the_tail_begins_so_many_lines_before_the_end(store: Store, running: str) -> None:
    await store.logs.append(running, 1, "w1", chunks(*range(1, 11)))
    assert await store.logs.line_before_tail(running, 1, 7) == 93
    assert await store.logs.line_before_tail(running, 1, 700) == 0
    assert await store.logs.line_before_tail(running, 2, 7) == 0
