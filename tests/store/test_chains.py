"""Schedules that follow the ends of runs: a delay after the task's own last run, and tasks that wait for others."""

from __future__ import annotations

from typing import Any

import pytest

from taskman.model.instants import parse_instant
from taskman.model.run import Run, RunSpec
from taskman.model.states import State
from taskman.model.task import Task, TaskDefinition
from taskman.runtime.scheduler import plan
from taskman.store.runs import Outcome, Submission
from taskman.store.store import Store

NOW = parse_instant("2027-01-15T08:00:00Z")
SECOND, MINUTE = 1000, 60_000


def definition(name: str, *schedules: dict[str, Any], **changes: Any) -> TaskDefinition:
    timed = [{"timezone": "UTC", **one} for one in schedules]
    return TaskDefinition.model_validate({"name": name, "type": "shell", "params": {}, "schedules": timed, **changes})


async def save(store: Store, name: str, *schedules: dict[str, Any], now_ms: int = NOW, **changes: Any) -> Task:
    return await store.tasks.save(definition(name, *schedules, **changes), now_ms)


def after(*tasks: str, on: str = "success", **options: Any) -> dict[str, Any]:
    return {"after": [{"task": task, "on": on} for task in tasks], **options}


async def end(store: Store, task: str, now_ms: int, outcome: str = "succeeded") -> None:
    """A run of the task that somebody asked for comes to its end."""
    run_id = f"r0-{task:0>5}{now_ms:0>18}".replace("u", "v").replace("l", "1").replace("o", "0").replace("i", "1")
    await store.runs.submit([Submission(run_id, RunSpec(type="shell", params={}, task=task))], by="test", now_ms=now_ms)
    await finish(store, now_ms, outcome)


async def finish(store: Store, now_ms: int, outcome: str = "succeeded") -> None:
    """A worker takes everything that is ready, and it ends."""
    taken = await store.runs.claim("w1", 10, ["shell|default|"], lease_ms=20_000, now_ms=now_ms)
    await store.runs.finish("w1", [Outcome(one.run_id, one.attempt, outcome) for one in taken], now_ms=now_ms)


async def look(store: Store, now_ms: int) -> int:
    """What a server does that looks at this time; how many schedules moved on."""
    due = await store.tasks.due(now_ms)
    tasks = {task.name: task for task in await store.tasks.get_many(sorted({one.task for one in due}))}
    return sum(await store.tasks.fire([plan(one, tasks[one.task], now_ms) for one in due], now_ms=now_ms))


async def fired(store: Store, task: str) -> list[Run]:
    """The runs that schedules have made, oldest first."""
    runs = (await store.runs.page(task=task, limit=1000)).runs
    return sorted((run for run in runs if run.spec.trigger == "schedule"), key=lambda run: run.spec.fire_time_ms or 0)


# A delay


async def test_a_delay_is_counted_from_the_end_of_the_last_run_whoever_asked_for_it(store: Store) -> None:
    saved = await save(store, "poll", {"after": "5m", "anchor": "2027-01-15T08:00:00Z"})
    assert saved.next_ms == NOW + 5 * MINUTE
    await end(store, "poll", NOW + 2 * MINUTE, "failed")
    assert (await store.tasks.get("poll")).next_ms == NOW + 7 * MINUTE
    assert await look(store, NOW + 7 * MINUTE) == 1
    assert (await store.tasks.get("poll")).next_ms is None, "nobody knows when the run will end"
    await finish(store, NOW + 20 * MINUTE)
    assert (await store.tasks.get("poll")).next_ms == NOW + 25 * MINUTE
    assert [run.spec.fire_time_ms for run in await fired(store, "poll")] == [NOW + 7 * MINUTE]


async def test_a_delay_goes_on_after_a_run_that_was_skipped(store: Store) -> None:
    await save(store, "poll", {"after": "5m", "anchor": "2027-01-15T08:00:00Z"}, unique={"key": "x"})
    held = Submission("r0-00000000000000000000001", RunSpec(type="shell", params={}, unique=_word("poll")))
    await store.runs.submit([held], by="test", now_ms=NOW)
    assert await look(store, NOW + 5 * MINUTE) == 1
    assert [run.state for run in await fired(store, "poll")] == [State.SKIPPED]
    assert (await store.tasks.get("poll")).next_ms == NOW + 10 * MINUTE


def _word(task: str) -> str:
    unique = definition(task, unique={"key": "x"}).unique
    assert unique is not None
    return unique.word(task, {})


async def test_a_delay_that_ends_in_closed_time_is_put_off_until_it_opens(store: Store) -> None:
    await save(store, "poll", {"after": "5m", "window": "10:00-12:00", "anchor": "2027-01-15T08:00:00Z"})
    await look(store, NOW + 5 * MINUTE)
    assert (await store.tasks.get("poll")).next_ms == NOW + 120 * MINUTE
    await look(store, NOW + 120 * MINUTE)
    assert [run.spec.fire_time_ms for run in await fired(store, "poll")] == [NOW + 120 * MINUTE]
    assert [(one.outcome, one.reason) for one in await store.tasks.ledger("poll")] == [
        ("fired", None),
        ("skipped", "calendar"),
    ]


async def test_max_runs_end_a_delay(store: Store) -> None:
    await save(store, "poll", {"after": "1m", "max_runs": 2, "anchor": "2027-01-15T08:00:00Z"})
    for minute in range(1, 6):
        await look(store, NOW + minute * MINUTE)
        await finish(store, NOW + minute * MINUTE)
    assert len(await fired(store, "poll")) == 2
    assert (await store.tasks.get("poll")).next_ms is None


async def test_a_delay_switched_on_again_counts_from_then(store: Store) -> None:
    poll = {"after": "5m", "anchor": "2027-01-15T08:00:00Z"}
    await save(store, "poll", poll, enabled=False)
    resumed = await save(store, "poll", poll, now_ms=NOW + 60 * MINUTE)
    assert resumed.next_ms == NOW + 65 * MINUTE


# Chains


async def test_a_chained_task_runs_when_the_other_has_succeeded(store: Store) -> None:
    await save(store, "backup")
    await save(store, "report", after("backup"))
    await end(store, "backup", NOW + MINUTE, "failed")
    assert await look(store, NOW + MINUTE) == 0
    await end(store, "backup", NOW + 2 * MINUTE)
    assert await look(store, NOW + 2 * MINUTE) == 1
    (run,) = await fired(store, "report")
    assert (run.spec.fire_time_ms, run.state) == (NOW + 2 * MINUTE, State.QUEUED)
    assert await look(store, NOW + 3 * MINUTE) == 0


@pytest.mark.parametrize(
    ("on", "outcome", "count"),
    [
        ("success", "succeeded", 1),
        ("success", "failed", 0),
        ("failure", "failed", 1),
        ("failure", "succeeded", 0),
        ("always", "failed", 1),
        ("always", "cancelled", 1),
        ("success", "cancelled", 0),
    ],
)
async def test_how_the_other_must_have_ended(store: Store, on: str, outcome: str, count: int) -> None:
    await save(store, "backup")
    await save(store, "report", after("backup", on=on))
    await end(store, "backup", NOW + MINUTE, outcome)
    assert await look(store, NOW + MINUTE) == count


async def test_all_of_several_must_have_ended_and_each_end_counts_once(store: Store) -> None:
    for name in ("a", "b"):
        await save(store, name)
    await save(store, "both", after("a", "b"), overlap="allow")
    for at, name in enumerate("aabab", 1):
        await end(store, name, NOW + at * MINUTE)
        await look(store, NOW + at * MINUTE)
    assert [run.spec.fire_time_ms for run in await fired(store, "both")] == [NOW + 3 * MINUTE, NOW + 5 * MINUTE]


async def test_a_set_that_is_met_while_no_server_looks_is_neither_lost_nor_fired_twice(store: Store) -> None:
    await save(store, "backup")
    await save(store, "report", after("backup"), overlap="allow")
    await end(store, "backup", NOW + MINUTE)
    (due,) = await store.tasks.due(NOW + MINUTE)
    planned = plan(due, await store.tasks.get("report"), NOW + 2 * MINUTE)
    await end(store, "backup", NOW + 2 * MINUTE)
    assert await store.tasks.fire([planned, planned], now_ms=NOW + 2 * MINUTE) == [True, False]
    assert await look(store, NOW + 60 * MINUTE) == 1
    assert [run.spec.fire_time_ms for run in await fired(store, "report")] == [NOW + MINUTE, NOW + 2 * MINUTE]
    assert await look(store, NOW + 61 * MINUTE) == 0


async def test_two_sets_met_in_one_millisecond_are_two_runs(store: Store) -> None:
    await save(store, "backup")
    await save(store, "report", after("backup"), overlap="allow")
    await end(store, "backup", NOW + MINUTE)
    await look(store, NOW + MINUTE)
    await store.runs.submit(
        [Submission("r0-00000000000000000000009", RunSpec(type="shell", params={}, task="backup"))],
        by="test",
        now_ms=NOW + MINUTE,
    )
    await finish(store, NOW + MINUTE)
    await look(store, NOW + MINUTE + 1)
    assert [run.spec.fire_time_ms for run in await fired(store, "report")] == [NOW + MINUTE, NOW + MINUTE + 1]


async def test_a_deleted_or_paused_task_is_woken_by_nothing(store: Store) -> None:
    await save(store, "backup")
    await save(store, "report", after("backup"))
    await save(store, "mail", after("backup"))
    await store.tasks.delete("report")
    await save(store, "mail", after("backup"), enabled=False)
    await end(store, "backup", NOW + MINUTE)
    assert await store.tasks.due(NOW + 60 * MINUTE) == []
    await save(store, "mail", after("backup"), now_ms=NOW + 2 * MINUTE)
    assert await store.tasks.due(NOW + 60 * MINUTE) == []


async def test_a_chain_in_closed_time_is_skipped_and_waits_for_the_next_end(store: Store) -> None:
    await save(store, "backup")
    await save(store, "report", after("backup", window="08:10-09:00"))
    await end(store, "backup", NOW + MINUTE)
    assert await look(store, NOW + MINUTE) == 1
    assert await fired(store, "report") == []
    await end(store, "backup", NOW + 15 * MINUTE)
    await look(store, NOW + 15 * MINUTE)
    assert [one.outcome for one in await store.tasks.ledger("report")] == ["fired", "skipped"]
