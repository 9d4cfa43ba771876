"""Retention: final runs beyond age or number go, with everything that is theirs, and nothing else does."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
import trio

from taskman.model import ids
from taskman.model.ids import new_run_id
from taskman.model.run import RunSpec
from taskman.model.states import FINAL, State
from taskman.runtime.retention import BATCH, Keep, Sweeper, retain
from taskman.store.logs import Chunk
from taskman.store.runs import Outcome, Submission
from taskman.store.store import Store

DAY_MS = 86_400_000
NOW = time.time_ns() // 1_000_000
OLD = NOW - 40 * DAY_MS
NO_LIMIT = Keep(0, 0, 0)


async def submit(
    store: Store, count: int = 1, *, at_ms: int = NOW, task: str | None = None, due_ms: int = 0
) -> list[str]:
    spec = RunSpec(type="shell", params={}, task=task)
    wanted = [Submission(id_of(at_ms), spec, due_ms) for _ in range(count)]
    for first in range(0, count, 500):
        await store.runs.submit(wanted[first : first + 500], by="test", now_ms=at_ms)
    return [one.id for one in wanted]


def id_of(at_ms: int) -> str:
    """An id of that time, also when the last one was of a later time: runs of a process count up, tests go back."""
    if at_ms < ids._last[0]:
        ids._last = (0, 0)
    return ids.new_run_id(0, at_ms)


async def finish(store: Store, runs: Sequence[str], at_ms: int = NOW) -> None:
    await store.runs.claim("w1", len(runs), await store.runs.signatures(), lease_ms=40_000, now_ms=at_ms)
    for first in range(0, len(runs), 500):
        outcomes = [Outcome(run_id, 1, "succeeded") for run_id in runs[first : first + 500]]
        assert set(await store.runs.finish("w1", outcomes, now_ms=at_ms)) == {"succeeded"}


async def everything(store: Store) -> set[str]:
    """Every key there is but those of a fresh store."""
    found = await store.connection.execute("KEYS", "tm:*")
    return {key.decode().removeprefix("tm:{0}:") for key in found} - {"meta", "events", "signatures"}


async def remaining(store: Store, runs: Sequence[str]) -> list[str]:
    return [run.id for run in await store.runs.get_many(runs)]


async def test_an_old_run_goes_with_everything_that_is_its_own(store: Store) -> None:
    (run_id,) = await submit(store, at_ms=OLD, task="nightly")
    await store.runs.claim("w1", 1, await store.runs.signatures(), lease_ms=40_000, now_ms=OLD)
    await store.logs.append(run_id, 1, "w1", [Chunk(n, n, "out", n, b"x" * 5000 + b"\n") for n in range(1, 9)])
    await store.runs.finish("w1", [Outcome(run_id, 1, "succeeded")], now_ms=OLD)
    assert f"run:{run_id}:log" in await everything(store)
    assert await Sweeper(store, Keep(30, 0, 0)).sweep(NOW) == 1
    assert await everything(store) == set()


@pytest.mark.parametrize("compacted", [False, True])
async def test_its_log_goes_in_either_form(store: Store, compacted: bool) -> None:
    (run_id,) = await submit(store, at_ms=OLD)
    await store.runs.claim("w1", 1, await store.runs.signatures(), lease_ms=40_000, now_ms=OLD)
    await store.logs.append(run_id, 1, "w1", [Chunk(1, 1, "out", 1, b"x" * 5000)])
    await store.runs.finish("w1", [Outcome(run_id, 1, "succeeded")], now_ms=OLD)
    if compacted:
        assert await store.logs.compact(run_id)
    assert await Sweeper(store, Keep(30, 0, 0)).sweep(NOW) == 1
    assert await everything(store) == set()
    assert not await store.logs.compact(run_id)
    assert not await store.logs.append(run_id, 1, "w1", [Chunk(2, 2, "out", 2, b"late")])
    assert await everything(store) == set()


async def test_runs_that_are_not_final_are_never_touched(store: Store) -> None:
    queued = await submit(store, 3, at_ms=OLD, task="t")
    later = await submit(store, 2, at_ms=OLD, task="t", due_ms=NOW + DAY_MS)
    await store.runs.claim("w1", 1, await store.runs.signatures(), lease_ms=40_000, now_ms=OLD)
    assert await Sweeper(store, Keep(1, 1, 1)).sweep(NOW) == 0
    found = store.retention
    assert await found.forget_old([*queued, *later], NOW) == 0
    assert await found.forget_surplus([*queued, *later], 0) == 0
    assert await found.forget_surplus_of("t", [*queued, *later], 0) == 0
    assert await remaining(store, [*queued, *later]) == [*queued, *later]


async def test_one_run_can_be_forgotten_however_young_once_it_is_final(store: Store) -> None:
    before = await everything(store)
    first, second = await submit(store, 2, task="t")
    assert not await store.retention.forget_now(first)
    await finish(store, [first, second])
    assert await store.retention.forget_now(first)
    assert await remaining(store, [first, second]) == [second]
    assert (await store.runs.count_by_state())[State.SUCCEEDED] == 1
    assert await store.retention.forget_now(first), "safe to repeat"
    assert await store.retention.forget_now(second)
    assert await everything(store) == before


async def test_a_run_that_waited_for_long_is_as_old_as_its_end(store: Store) -> None:
    waited = await submit(store, 450, at_ms=OLD)
    await finish(store, waited, NOW - DAY_MS)
    old = await submit(store, 450, at_ms=OLD + 1000)
    await finish(store, old, OLD + 2000)
    assert await Sweeper(store, Keep(30, 0, 0)).sweep(NOW) == 450
    assert await remaining(store, [*waited, *old]) == waited


async def test_a_sweep_goes_on_where_the_last_one_stopped(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskman.runtime.retention._IDLE_BATCHES", 1)
    waited = await submit(store, 2 * BATCH, at_ms=OLD)
    await finish(store, waited, NOW)
    old = await submit(store, at_ms=OLD + 1000)
    await finish(store, old, OLD + 2000)
    sweeper = Sweeper(store, Keep(30, 0, 0))
    assert [await sweeper.sweep(NOW) for _ in range(4)] == [0, 0, 1, 0]
    assert [await sweeper.sweep(NOW + 40 * DAY_MS) for _ in range(4)] == [BATCH, BATCH, 0, 0]


async def test_of_all_runs_the_newest_stay(store: Store) -> None:
    runs = await submit(store, 700)
    await finish(store, runs[:600])
    cancelled = runs[600:650]
    for run_id in cancelled:
        await store.runs.cancel(run_id, by="test")
    assert await Sweeper(store, Keep(0, 100, 0)).sweep() == 550
    assert await remaining(store, runs) == runs[550:]
    counts = await store.runs.count_by_state()
    assert (counts[State.SUCCEEDED], counts[State.CANCELLED], counts[State.QUEUED]) == (50, 50, 50)
    assert await Sweeper(store, Keep(0, 100, 0)).sweep() == 0


async def test_many_servers_at_once_forget_no_more_than_one(store: Store) -> None:
    runs = await submit(store, 1000, task="t")
    await finish(store, runs)
    await store.connection.execute("ZADD", "tm:{0}:tasks", 0, "t")
    async with trio.open_nursery() as nursery:
        for keep in (Keep(0, 300, 0), Keep(0, 0, 300), Keep(0, 300, 300)) * 2:
            nursery.start_soon(Sweeper(store, keep).sweep)
    assert await remaining(store, runs) == runs[700:]


async def test_of_a_task_the_newest_final_runs_stay_however_many_wait(store: Store) -> None:
    await store.connection.execute("ZADD", "tm:{0}:tasks", 0, "busy", 0, "idle")
    idle = await submit(store, 5, task="idle")
    early = await submit(store, 300, at_ms=NOW - DAY_MS, task="busy", due_ms=NOW + DAY_MS)
    done = await submit(store, 60, at_ms=NOW, task="busy")
    await finish(store, [*idle, *done])
    waiting = await submit(store, 500, at_ms=NOW + 1000, task="busy")
    assert await store.retention.counts_by_task("", 10) == {"busy": 60, "idle": 5}
    assert await Sweeper(store, Keep(0, 0, 50)).sweep() == 10
    assert await remaining(store, [*idle, *early, *done, *waiting]) == [*idle, *early, *done[10:], *waiting]


async def test_tasks_are_gone_through_in_turns(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskman.runtime.retention._TASKS", 2)
    for name in "abcde":
        await store.connection.execute("ZADD", "tm:{0}:tasks", 0, name)
        await finish(store, await submit(store, 3, task=name))
    sweeper = Sweeper(store, Keep(0, 0, 1))
    assert [await sweeper.sweep() for _ in range(4)] == [4, 4, 2, 0]


async def test_the_number_of_unfinished_runs_is_what_it_counts(store: Store) -> None:
    runs = await submit(store, 6, task="t")
    (skipped,) = [Submission(new_run_id(), RunSpec(type="shell", params={}, task="t", group="g", permits={"g": 1}))]
    await store.runs.submit([skipped], by="test")
    again = Submission(new_run_id(), skipped.spec, overlap="skip")
    assert (await store.runs.submit([again], by="test"))[0].outcome == "skipped"
    await store.runs.submit([skipped], by="test")
    assert await unfinished(store) == {b"t": 7}
    await store.runs.claim("w1", 3, await store.runs.signatures(), lease_ms=40_000)
    await store.runs.finish("w1", [Outcome(runs[0], 1, "released"), Outcome(runs[1], 1, "retry", wait_s=9)])
    await store.runs.cancel(runs[2], by="test")
    assert await unfinished(store) == {b"t": 7}
    await store.runs.finish("w1", [Outcome(runs[2], 1, "cancelled")])
    await store.runs.finish("w1", [Outcome(runs[2], 1, "cancelled")])
    assert await unfinished(store) == {b"t": 6}
    for run_id in [*runs, skipped.id]:
        if not (await store.runs.get(run_id)).is_final:
            await store.runs.cancel(run_id, by="test")
    assert await unfinished(store) == {}


async def unfinished(store: Store) -> dict[bytes, int]:
    flat = await store.connection.execute("HGETALL", "tm:{0}:unfinished")
    return {name: int(count) for name, count in zip(flat[::2], flat[1::2], strict=True)}


async def test_an_id_in_an_index_without_a_run_goes_as_well(store: Store) -> None:
    orphan = id_of(OLD)
    await store.connection.execute("ZADD", "tm:{0}:state:failed", 0, orphan)
    assert await Sweeper(store, Keep(30, 0, 0)).sweep(NOW) == 1
    assert await everything(store) == set()


async def test_without_limits_everything_stays(store: Store) -> None:
    runs = await submit(store, 20, at_ms=OLD, task="t")
    await finish(store, runs, OLD)
    assert await Sweeper(store, NO_LIMIT).sweep(NOW) == 0
    assert await remaining(store, runs) == runs


async def test_a_full_redis_can_forget(start_redis: object, nursery: trio.Nursery) -> None:
    url, _ = start_redis("--maxmemory-policy", "noeviction")  # type: ignore[operator]
    store = Store(url)
    await nursery.start(store.run)
    runs = await submit(store, 50, at_ms=OLD)
    await finish(store, runs, OLD)
    await store.connection.execute("CONFIG", "SET", "maxmemory", "1")
    assert await Sweeper(store, Keep(30, 0, 0)).sweep(NOW) == 50


async def test_a_unique_key_for_a_period_outlives_its_run(store: Store) -> None:
    spec = RunSpec(type="shell", params={}, unique="abc:60000")
    first = Submission(new_run_id(), spec)
    await store.runs.submit([first], by="test")
    await finish(store, [first.id], 0)
    assert await store.retention.forget_surplus([first.id], 0) == 1
    receipt = (await store.runs.submit([Submission(new_run_id(), spec)], by="test"))[0]
    assert (receipt.outcome, receipt.run_id) == ("taken", first.id)


async def test_the_actor_sweeps_at_once_and_outlives_a_refusal(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskman.runtime.retention.PERIOD_S", 0.01)
    await store.connection.execute("SET", "tm:{0}:state:failed", "no sorted set")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(retain, store, Keep(0, 10, 0))
        runs = await submit(store, 50)
        await finish(store, runs)
        await store.connection.execute("DEL", "tm:{0}:state:failed")
        with trio.fail_after(5):
            while sum([count for state, count in (await store.runs.count_by_state()).items() if state in FINAL]) > 10:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
