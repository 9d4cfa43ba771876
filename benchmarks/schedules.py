"""What schedules cost, many of them and many at once: `python benchmarks/schedules.py`.

A real Redis with its file on disk, the real scheduler, no worker: lateness is from the due instant to the run being
ready for one.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from taskman.model.instants import format_instant
from taskman.model.task import TaskDefinition
from taskman.runtime.scheduler import Scheduler, plan
from taskman.store.embedded import EmbeddedRedis
from taskman.store.store import Store

MANY = 100_000
IDLE_S = 20.0
_AT_ONCE = 32


@asynccontextmanager
async def fresh_store() -> AsyncIterator[tuple[Store, trio.Nursery]]:
    """A store on a Redis of its own."""
    with tempfile.TemporaryDirectory() as directory:
        async with EmbeddedRedis(Path(directory) / "redis") as redis, trio.open_nursery() as nursery:
            store = Store(redis.url)
            await nursery.start(store.run)
            yield store, nursery
            nursery.cancel_scope.cancel()


async def save(store: Store, count: int, first: int = 0, **schedule: Any) -> None:
    """So many tasks with that schedule, several saves under way at a time."""
    now_ms = await store.runs.now()
    names = iter(range(first, first + count))

    async def some() -> None:
        for number in names:
            body = {"name": f"t{number:06}", "type": "shell", "params": {}, "overlap": "allow"}
            definition = TaskDefinition.model_validate({**body, "schedules": [{"timezone": "UTC", **schedule}]})
            await store.tasks.save(definition, now_ms)

    async with trio.open_nursery() as nursery:
        for _ in range(_AT_ONCE):
            nursery.start_soon(some)


async def lateness(store: Store, prefix: str, at_ms: int, count: int) -> list[int]:
    """How late each run of that instant became ready, ms, sorted."""
    found: list[int] = []
    with trio.fail_after(60):
        while len(found) < count:
            await trio.sleep(0.2)
            runs, cursor = [], None
            while not runs or cursor is not None:
                page = await store.runs.page(limit=1000, cursor=cursor)
                runs, cursor = runs + page.runs, page.next_cursor
                if not page.runs:
                    break
            wanted = [
                run for run in runs if (run.spec.task or "").startswith(prefix) and run.spec.fire_time_ms == at_ms
            ]
            found = sorted(run.created_ms - at_ms for run in wanted)
    return found


async def one_script(store: Store, count: int, now_ms: int) -> tuple[float, float]:
    """Planning and committing so many due schedules: seconds each."""
    due = await store.tasks.due(now_ms, count)
    tasks = {task.name: task for task in await store.tasks.get_many([one.task for one in due])}
    began = time.perf_counter()
    plans = [plan(one, tasks[one.task], now_ms) for one in due]
    planned = time.perf_counter()
    assert await store.tasks.fire(plans, now_ms=now_ms) == [True] * count
    return planned - began, time.perf_counter() - planned


def row(what: str, found: str) -> None:
    print(f"{what:<62} {found:>28}", flush=True)


async def batches() -> None:
    """One script call for a hundred due schedules."""
    async with fresh_store() as (store, _):
        await save(store, 100, every="1s", anchor="2026-01-01T00:00:00Z")
        now_ms = await store.runs.now()
        costs = [await one_script(store, 100, now_ms // 1000 * 1000 + second * 1000) for second in range(1, 40)]
        planned, committed = (sorted(column)[len(costs) // 2] * 1000 for column in zip(*costs, strict=True))
        row("100 due schedules: planned, committed by one script", f"{planned:.1f} ms, {committed:.1f} ms")


async def together() -> None:
    """A thousand schedules of one instant."""
    async with fresh_store() as (store, nursery):
        now_ms = await store.runs.now()
        at_ms = now_ms + 8000
        await save(store, 1000, at=format_instant(at_ms))
        await nursery.start(Scheduler(store).run)
        late = await lateness(store, "t", at_ms, 1000)
        p50, p99 = late[500], late[990]
        row("1,000 schedules due in one instant: lateness p50, p99, last", f"{p50}, {p99}, {late[-1]} ms")


async def many(count: int) -> None:
    """Start-up, the next fire and idling with a hundred thousand schedules."""
    async with fresh_store() as (store, nursery):
        began = time.perf_counter()
        await save(store, count, cron="30 2 1 1 *")
        row(f"{count:,} schedules saved", f"{count / (time.perf_counter() - began):,.0f}/s")
        began = time.perf_counter()
        await nursery.start(Scheduler(store).run)
        await store.runs.promote()
        row(f"{count:,} schedules: the scheduler starts", f"{(time.perf_counter() - began) * 1000:.1f} ms")
        at_ms = await store.runs.now() + 2000
        await save(store, 1, count, at=format_instant(at_ms))
        late = await lateness(store, f"t{count:06}", at_ms, 1)
        row(f"{count:,} schedules: lateness of the next one", f"{late[0]} ms")
        before = _cpu_s()
        await trio.sleep(IDLE_S)
        row(f"{count:,} schedules: idle processor time", f"{(_cpu_s() - before) * 60 / IDLE_S:.3f} s a minute")


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def main() -> None:
    """Measure everything, print the table."""
    await batches()
    await together()
    await many(int(sys.argv[1]) if len(sys.argv) > 1 else MANY)


if __name__ == "__main__":
    trio.run(main)
