"""Tasks and their schedules against a real Redis; time is given, not waited for."""

from __future__ import annotations

from typing import Any

import pytest

from taskman.errors import Conflict, NotFound
from taskman.model.task import TaskDefinition
from taskman.runtime.scheduler import plan
from taskman.store.store import Store
from taskman.store.tasks import Due

NOW = 1_800_000_000_000


def definition(**changes: Any) -> TaskDefinition:
    schedules = changes.pop("schedules", [{"every": "10s", "anchor": "2027-01-15T08:00:00Z"}])
    body = {"name": "tick", "type": "shell", "params": {"command": "true"}, "schedules": schedules, **changes}
    return TaskDefinition.model_validate(body)


async def fire(store: Store, due: Due, now_ms: int) -> bool:
    return (await store.tasks.fire([plan(due, await store.tasks.get(due.task), now_ms)], now_ms=now_ms))[0]


async def test_a_saved_task_reads_back_the_same(store: Store) -> None:
    wanted = definition(description="ticks ✓", timeout="90s", env={"A": "b"}, priority=-3)
    saved = await store.tasks.save(wanted, NOW)
    assert (saved.revision, saved.next_ms) == (1, NOW + 10_000)
    assert await store.tasks.get("tick") == saved or (await store.tasks.get("tick")).definition == wanted


async def test_a_revision_guards_against_lost_updates(store: Store) -> None:
    await store.tasks.save(definition(), NOW, revision=0)
    with pytest.raises(Conflict, match="already"):
        await store.tasks.save(definition(), NOW, revision=0)
    await store.tasks.save(definition(priority=1), NOW, revision=1)
    with pytest.raises(Conflict, match="changed meanwhile"):
        await store.tasks.save(definition(priority=2), NOW, revision=1)


async def test_a_due_instant_fires_once_whoever_tries(store: Store) -> None:
    saved = await store.tasks.save(definition(), NOW)
    assert saved.next_ms is not None
    due = (await store.tasks.due(saved.next_ms))[0]
    fired = [await fire(store, due, saved.next_ms) for _ in range(3)]
    assert fired == [True, False, False]
    page = await store.runs.page()
    assert [run.spec.fire_time_ms for run in page.runs] == [saved.next_ms]
    assert page.runs[0].spec.trigger == "schedule"
    assert (await store.tasks.get("tick")).next_ms == saved.next_ms + 10_000
    entries = await store.tasks.ledger("tick")
    assert [(entry.fire_time_ms, entry.outcome, entry.run_id) for entry in entries] == [
        (saved.next_ms, "fired", page.runs[0].id)
    ]


async def test_an_edited_task_does_not_fire_its_old_schedule(store: Store) -> None:
    saved = await store.tasks.save(definition(), NOW)
    due = Due("tick", 0, saved.next_ms or 0)
    old = plan(due, saved, due.due_ms)
    await store.tasks.save(definition(priority=1), NOW)
    assert await store.tasks.fire([old]) == [False]


async def test_what_nobody_was_there_for_is_recorded_as_missed_and_the_last_one_fires(store: Store) -> None:
    saved = await store.tasks.save(definition(), NOW)
    due = (await store.tasks.due(NOW + 10_000))[0]
    later = NOW + 3_600_000
    assert await fire(store, due, later + 5)
    fired, missed = await store.tasks.ledger("tick")
    assert (fired.fire_time_ms, fired.outcome) == (later, "fired")
    assert (missed.since_ms, missed.fire_time_ms, missed.outcome) == (saved.next_ms, later - 10_000, "missed")
    assert (await store.tasks.get("tick")).next_ms == later + 10_000


async def test_a_little_late_is_not_missed(store: Store) -> None:
    await store.tasks.save(definition(schedules=[{"every": "1s", "anchor": "2027-01-15T08:00:00Z"}]), NOW)
    assert await fire(store, (await store.tasks.due(NOW + 3_000))[0], NOW + 3_000)
    entries = await store.tasks.ledger("tick")
    assert [entry.fire_time_ms - NOW for entry in entries] == [3000, 2000, 1000]
    assert {entry.outcome for entry in entries} <= {"fired", "skipped"}
    assert await store.tasks.due(NOW + 3_000) == []


async def test_a_schedule_for_one_instant_fires_once_and_is_over(store: Store) -> None:
    await store.tasks.save(definition(schedules=[{"at": "2027-01-15T08:01:00Z"}]), NOW)
    due = await store.tasks.due(NOW + 60_000)
    assert await fire(store, due[0], NOW + 60_000)
    assert await store.tasks.due(NOW + 10**9) == []
    assert (await store.tasks.get("tick")).next_ms is None


async def test_a_disabled_task_has_nothing_due(store: Store) -> None:
    await store.tasks.save(definition(), NOW)
    await store.tasks.save(definition(enabled=False), NOW)
    assert await store.tasks.due(NOW + 10**9) == []


async def test_a_deleted_task_leaves_no_schedule_and_keeps_its_runs(store: Store) -> None:
    saved = await store.tasks.save(definition(), NOW)
    due = (await store.tasks.due(saved.next_ms or 0))[0]
    assert await fire(store, due, due.due_ms)
    await store.tasks.delete("tick")
    assert await store.tasks.due(NOW + 10**9) == []
    assert len((await store.runs.page(task="tick")).runs) == 1
    with pytest.raises(NotFound):
        await store.tasks.get("tick")
    with pytest.raises(NotFound):
        await store.tasks.delete("tick")


async def test_tasks_come_in_pages_by_name(store: Store) -> None:
    for name in ("b", "a", "d", "c"):
        await store.tasks.save(definition(name=name), NOW)
    first, cursor = await store.tasks.page(3)
    second, end = await store.tasks.page(3, cursor)
    assert [task.name for task in first + second] == ["a", "b", "c", "d"]
    assert end is None
