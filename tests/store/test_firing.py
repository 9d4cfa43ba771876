"""What schedules do when they are due, against a real Redis: policies, windows, counts, jitter, clocks that jump."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from taskman.model.instants import parse_instant
from taskman.model.run import Run
from taskman.model.schedule import Schedule
from taskman.model.task import TaskDefinition
from taskman.runtime.scheduler import plan
from taskman.store.store import Store
from taskman.store.tasks import LedgerEntry

NOW = parse_instant("2027-01-15T08:00:00Z")
SECOND, MINUTE, HOUR = 1000, 60_000, 3_600_000


def definition(*schedules: dict[str, Any], **changes: Any) -> TaskDefinition:
    body = {"name": "tick", "type": "shell", "params": {"command": "true"}, "schedules": schedules, **changes}
    return TaskDefinition.model_validate(body)


def every(period: str, **options: Any) -> dict[str, Any]:
    return {"every": period, "anchor": "2027-01-15T00:00:00Z", "timezone": "UTC", **options}


async def look(store: Store, now_ms: int) -> int:
    """What a server does that looks at this time; how many schedules moved on."""
    due = await store.tasks.due(now_ms)
    tasks = {task.name: task for task in await store.tasks.get_many(sorted({one.task for one in due}))}
    return sum(await store.tasks.fire([plan(one, tasks[one.task], now_ms) for one in due], now_ms=now_ms))


async def runs_of(store: Store) -> list[Run]:
    """The runs, by fire time."""
    return sorted((await store.runs.page(limit=1000)).runs, key=lambda run: run.spec.fire_time_ms or 0)


async def outcomes(store: Store) -> list[tuple[str, int, int, int]]:
    """The ledger, oldest first: outcome, first and last instant in seconds since NOW, number."""
    return [
        (one.outcome, (one.since_ms or one.fire_time_ms) - NOW, one.fire_time_ms - NOW, one.count)
        for one in reversed(await store.tasks.ledger("tick", 1000))
    ]


# Nobody was there


async def test_catching_up_on_all_fires_the_newest_and_records_the_others_as_one_range(store: Store) -> None:
    await store.tasks.save(definition(every("5m", catchup="all", catchup_max=3)), NOW)
    assert await look(store, NOW + 47 * MINUTE) == 1
    assert await outcomes(store) == [
        ("missed", 5 * MINUTE, 30 * MINUTE, 6),
        *[("fired", at * MINUTE, at * MINUTE, 1) for at in (35, 40, 45)],
    ]
    assert [run.spec.fire_time_ms for run in await runs_of(store)] == [NOW + at * MINUTE for at in (35, 40, 45)]
    assert (await store.tasks.get("tick")).next_ms == NOW + 50 * MINUTE


async def test_runs_that_are_caught_up_on_overlap_no_more_than_the_task_says(store: Store) -> None:
    await store.tasks.save(definition(every("5m", catchup="all"), overlap="skip"), NOW)
    await look(store, NOW + 15 * MINUTE + SECOND)
    assert [(one[0], one[1]) for one in await outcomes(store)] == [
        ("fired", 5 * MINUTE),
        ("skipped", 10 * MINUTE),
        ("skipped", 15 * MINUTE),
    ]
    assert [one.reason for one in await store.tasks.ledger("tick")] == ["overlap", "overlap", None]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"catchup": "last"}, [("missed", 5, 40, 8), ("fired", 45, 45, 1)]),
        ({"catchup": "skip"}, [("missed", 5, 45, 9)]),
        ({"catchup": "last", "catchup_window": "1m"}, [("missed", 5, 45, 9)]),
        (
            {"catchup": "all", "catchup_window": "10m"},
            [("missed", 5, 35, 7), ("fired", 40, 40, 1), ("fired", 45, 45, 1)],
        ),
    ],
)
async def test_each_policy_does_what_it_says(
    store: Store, options: dict[str, Any], expected: Sequence[tuple[str, int, int, int]]
) -> None:
    await store.tasks.save(definition(every("5m", **options)), NOW)
    await look(store, NOW + 47 * MINUTE)
    assert await outcomes(store) == [(what, first * MINUTE, last * MINUTE, n) for what, first, last, n in expected]


# Closed


async def test_a_window_costs_one_entry_and_no_wake_up_until_it_opens(store: Store) -> None:
    await store.tasks.save(definition(every("1s", window="10:00-10:01")), NOW)
    assert (await store.tasks.get("tick")).next_ms == NOW + 2 * HOUR
    assert await look(store, NOW + 2 * HOUR - 1) == 0
    assert await look(store, NOW + 2 * HOUR) == 1
    assert await outcomes(store) == [
        ("skipped", SECOND, 2 * HOUR - SECOND, 7199),
        ("fired", 2 * HOUR, 2 * HOUR, 1),
    ]
    assert [one.reason for one in await store.tasks.ledger("tick")] == [None, "calendar"]


async def test_after_a_window_has_closed_the_whole_night_is_one_entry(store: Store) -> None:
    await store.tasks.save(definition(every("1m", window="08:00-08:03"), overlap="allow"), NOW)
    for minute in (1, 2):
        await look(store, NOW + minute * MINUTE)
    task = await store.tasks.get("tick")
    assert task.next_ms == NOW + 24 * HOUR
    await look(store, NOW + 24 * HOUR + SECOND)
    assert (await outcomes(store))[2:] == [
        ("skipped", 3 * MINUTE, 24 * HOUR - MINUTE, 24 * 60 - 3),
        ("fired", 24 * HOUR, 24 * HOUR, 1),
    ]


async def test_a_schedule_that_never_may_fire_again_is_accounted_for_to_its_end(store: Store) -> None:
    end = "2027-01-15T08:05:00Z"
    await store.tasks.save(definition(every("1m", exclude=["2027-01-15"], end=end)), NOW)
    await look(store, NOW + 5 * MINUTE)
    found = await outcomes(store)
    assert sum(count for *_, count in found) == 5
    assert {what for what, *_ in found} == {"skipped"}
    assert (await store.tasks.get("tick")).next_ms is None


# Options


async def test_max_runs_are_counted_over_edits_and_end_the_schedule(store: Store) -> None:
    await store.tasks.save(definition(every("1m", max_runs=3), overlap="allow"), NOW)
    await look(store, NOW + MINUTE)
    await store.tasks.save(definition(every("1m", max_runs=3), overlap="allow", priority=1), NOW + MINUTE)
    for minute in range(2, 6):
        await look(store, NOW + minute * MINUTE)
    assert len(await runs_of(store)) == 3
    again = await store.tasks.save(definition(every("1m", max_runs=3)), NOW + 6 * MINUTE)
    assert again.next_ms is None
    more = await store.tasks.save(definition(every("1m", max_runs=4)), NOW + 6 * MINUTE)
    assert more.next_ms == NOW + 7 * MINUTE


async def test_servers_that_race_count_max_runs_once(store: Store) -> None:
    await store.tasks.save(definition(every("1m", max_runs=2), overlap="allow"), NOW)
    for minute in (1, 2, 3):
        now_ms = NOW + minute * MINUTE
        due = await store.tasks.due(now_ms)
        task = await store.tasks.get("tick")
        plans = [plan(one, task, now_ms) for one in due for _ in range(3)]
        assert sum(await store.tasks.fire(plans, now_ms=now_ms)) == len(due)
    assert len(await runs_of(store)) == 2


async def test_params_of_a_schedule_are_merged_over_those_of_the_task(store: Store) -> None:
    wanted = definition(every("1m", params={"command": "false"}), params={"command": "true", "stdin": "x"})
    await store.tasks.save(wanted, NOW)
    await look(store, NOW + MINUTE)
    (run,) = await runs_of(store)
    assert run.spec.params == {"command": "false", "stdin": "x"}


async def test_jitter_moves_the_run_and_not_its_fire_time(store: Store) -> None:
    await store.tasks.save(definition(every("10m", jitter="5m")), NOW)
    schedule = Schedule.model_validate(every("10m", jitter="5m"))
    later = schedule.jitter_ms("tick", NOW + 10 * MINUTE)
    assert 0 < later <= 5 * MINUTE
    await look(store, NOW + 10 * MINUTE)
    (run,) = await runs_of(store)
    assert (run.state, run.due_ms, run.spec.fire_time_ms) == ("scheduled", NOW + 10 * MINUTE + later, NOW + 10 * MINUTE)
    assert await outcomes(store) == [("fired", 10 * MINUTE, 10 * MINUTE, 1)]
    assert (await store.runs.promote(now_ms=run.due_ms - 1)).promoted == 0
    assert (await store.runs.promote(now_ms=run.due_ms)).promoted == 1


# The task changes


async def test_a_task_made_again_does_not_match_what_was_planned_for_the_one_before(store: Store) -> None:
    saved = await store.tasks.save(definition(every("1m")), NOW)
    (due,) = await store.tasks.due(NOW + MINUTE)
    old = plan(due, saved, NOW + MINUTE)
    await store.tasks.delete("tick")
    again = await store.tasks.save(definition(every("1m"), params={"command": "false"}), NOW)
    assert again.revision > saved.revision
    assert await store.tasks.fire([old], now_ms=NOW + MINUTE) == [False]
    assert await look(store, NOW + MINUTE) == 1
    assert [run.spec.params for run in await runs_of(store)] == [{"command": "false"}]


async def test_switching_off_and_on_owes_nothing(store: Store) -> None:
    await store.tasks.save(definition(every("1m", catchup="all")), NOW)
    await store.tasks.save(definition(every("1m", catchup="all"), enabled=False), NOW)
    assert await look(store, NOW + 10 * MINUTE) == 0
    await store.tasks.save(definition(every("1m", catchup="all")), NOW + 10 * MINUTE)
    assert await look(store, NOW + 11 * MINUTE) == 1
    assert await outcomes(store) == [("fired", 11 * MINUTE, 11 * MINUTE, 1)]


# Clocks


@pytest.mark.parametrize("jump_ms", [HOUR, -HOUR])
async def test_a_clock_that_jumps_makes_nothing_twice_and_loses_nothing(store: Store, jump_ms: int) -> None:
    await store.tasks.save(definition(every("5m", catchup="all", catchup_window="2h", catchup_max=100)), NOW)
    clock = [NOW + at * MINUTE for at in range(61)]
    clock += [at + jump_ms for at in clock[-1:]] + [clock[-1] + jump_ms + at * MINUTE for at in range(1, 121)]
    for now_ms in clock:
        await look(store, now_ms)
    fired = [run.spec.fire_time_ms for run in await runs_of(store)]
    assert fired == list(range(NOW + 5 * MINUTE, max(clock) + 1, 5 * MINUTE))


def covered(entries: Sequence[LedgerEntry], schedule: Schedule) -> list[int]:
    """Every instant that the ledger has an outcome for, ranges written out."""
    found: list[int] = []
    for one in entries:
        first = one.fire_time_ms if one.since_ms is None else one.since_ms
        instants = list(schedule.upcoming(first - 1, one.count))
        assert instants[-1] == one.fire_time_ms, one
        found += instants
    return sorted(found)


@pytest.mark.parametrize("seed", range(30))
async def test_each_instant_has_one_outcome_however_irregularly_servers_look(store: Store, seed: int) -> None:
    chance = random.Random(seed)
    options: dict[str, Any] = {"catchup": chance.choice(("last", "all", "skip")), "catchup_window": "20m"}
    if chance.random() < 0.5:
        options["window"] = chance.choice(("08:10-08:30", "09:00-08:20", "23:00-01:00"))
    if chance.random() < 0.3:
        options["exclude"] = ["2027-01-15T08:20:00Z/2027-01-15T08:40:00Z"]
    trigger = chance.choice(({"every": "20s", "anchor": "2027-01-15T00:00:00Z"}, {"cron": "*/2 * * * *"}))
    schedule = Schedule.model_validate({**trigger, "timezone": "UTC", **options})
    await store.tasks.save(definition(schedule.to_json()), NOW)
    now_ms = NOW
    for _ in range(chance.randrange(1, 60)):
        now_ms += chance.choice((1, 700, 20_000, 20_000, 60_000, 600_000))
        stale = [plan(due, await store.tasks.get("tick"), now_ms) for due in await store.tasks.due(now_ms)]
        await look(store, now_ms)
        assert not any(await store.tasks.fire(stale, now_ms=now_ms))
    entries = await store.tasks.ledger("tick", 1000)
    found = covered(entries, schedule)
    assert len(set(found)) == len(found), "an instant has two outcomes"
    until = found[-1] if found else NOW
    assert found == list(schedule.upcoming(NOW, schedule.count(NOW, until))), "an instant has no outcome"
    owed = list(schedule.upcoming(until, schedule.count(until, now_ms)))
    assert all(schedule.opening.closed_since(at) is not None for at in owed), "what is not recorded yet is closed"
    for one in entries:
        is_open = schedule.opening.closed_since(one.fire_time_ms) is None
        assert is_open or one.outcome != "fired"
        assert not (one.outcome == "skipped" and one.reason == "calendar" and is_open)
