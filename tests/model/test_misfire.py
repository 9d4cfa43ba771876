"""What becomes of due instants that nobody was there for: policy by policy, and against a plain list of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskman.model.instants import parse_instant
from taskman.model.misfire import DuePlan, Span, plan_due
from taskman.model.schedule import LATE_MS, Schedule
from taskman.model.validation import validate

T0 = parse_instant("2027-01-15T08:00:00Z")
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


def schedule(**fields: object) -> Schedule:
    return validate(Schedule, fields).settled("UTC", T0)


def told(plan: DuePlan) -> list[tuple[str, int, int, int]]:
    """Outcome, first and last (in minutes after T0), and count."""
    return [(s.outcome, (s.first_ms - T0) // MINUTE, (s.last_ms - T0) // MINUTE, s.count) for s in plan.spans]


def test_an_instant_that_is_a_little_late_fires() -> None:
    plan = plan_due(schedule(cron="* * * * *"), T0, T0 + LATE_MS)
    assert told(plan) == [("fired", 0, 0, 1)]
    assert plan.next_ms == T0 + MINUTE


def test_last_runs_once_for_the_whole_absence() -> None:
    plan = plan_due(schedule(cron="*/5 * * * *"), T0, T0 + 47 * MINUTE)
    assert told(plan) == [("missed", 0, 40, 9), ("fired", 45, 45, 1)]
    assert plan.next_ms == T0 + 50 * MINUTE


def test_last_runs_nothing_that_is_older_than_the_window() -> None:
    plan = plan_due(schedule(cron="0 8 * * *"), T0, T0 + 61 * MINUTE)
    assert told(plan) == [("missed", 0, 0, 1)]
    assert told(plan_due(schedule(cron="0 8 * * *", catchup_window="2h"), T0, T0 + 61 * MINUTE)) == [("fired", 0, 0, 1)]


def test_all_runs_the_newest_within_window_and_number() -> None:
    by_number = schedule(cron="*/5 * * * *", catchup="all", catchup_max=3)
    assert told(plan_due(by_number, T0, T0 + 47 * MINUTE)) == [
        ("missed", 0, 30, 7),
        ("fired", 35, 35, 1),
        ("fired", 40, 40, 1),
        ("fired", 45, 45, 1),
    ]
    by_window = schedule(cron="*/5 * * * *", catchup="all", catchup_window="7m")
    assert told(plan_due(by_window, T0, T0 + 47 * MINUTE)) == [
        ("missed", 0, 35, 8),
        ("fired", 40, 40, 1),
        ("fired", 45, 45, 1),
    ]


def test_skip_runs_only_what_is_not_missed() -> None:
    skipping = schedule(cron="* * * * *", catchup="skip")
    assert told(plan_due(skipping, T0, T0 + 3 * MINUTE + 1000)) == [("missed", 0, 2, 3), ("fired", 3, 3, 1)]
    assert told(plan_due(skipping, T0, T0 + 30_000)) == [("missed", 0, 0, 1)]


def test_closed_instants_are_skipped_and_do_not_take_the_place_of_one_that_may_fire() -> None:
    plan = plan_due(schedule(cron="*/10 * * * *", window="00:00-08:25"), T0, T0 + 45 * MINUTE)
    assert told(plan) == [("missed", 0, 10, 2), ("fired", 20, 20, 1), ("skipped", 30, 40, 2)]


def test_where_everything_was_closed_nothing_was_missed() -> None:
    plan = plan_due(schedule(cron="*/10 * * * *", exclude=["2027-01-15"]), T0, T0 + 45 * MINUTE)
    assert told(plan) == [("skipped", 0, 40, 5)]


def test_max_runs_ends_the_schedule_with_its_last_run() -> None:
    bounded = schedule(cron="*/5 * * * *", catchup="all", max_runs=5)
    plan = plan_due(bounded, T0, T0 + 47 * MINUTE, fired=3)
    assert plan.fires == (T0, T0 + 5 * MINUTE)
    assert plan.next_ms is None
    assert told(plan) == [("fired", 0, 0, 1), ("fired", 5, 5, 1)]
    assert plan_due(bounded, T0, T0, fired=5) == DuePlan((), None)
    assert plan_due(bounded, T0, T0, fired=4).next_ms is None


@pytest.mark.parametrize("catchup", ["last", "all", "skip"])
def test_a_year_of_seconds_is_planned_at_once(catchup: str) -> None:
    every_second = schedule(cron="* * * * * *", catchup=catchup)
    plan = plan_due(every_second, T0, T0 + 365 * DAY)
    assert sum(span.count for span in plan.spans) == 365 * 86_400 + 1
    assert plan.next_ms == T0 + 365 * DAY + 1000


def test_nothing_is_due_before_the_cursor() -> None:
    assert plan_due(schedule(every="5m"), T0 + 1, T0) == DuePlan((), T0 + 1)


SCHEDULES = st.fixed_dictionaries(
    {"cron": st.sampled_from(["* * * * *", "*/7 * * * *", "13 * * * *", "*/20 2-9 * * *", "*/4 * * * * *"])},
    optional={
        "catchup": st.sampled_from(["last", "all", "skip"]),
        "catchup_window": st.sampled_from([0, 5, 90, 1200, 3600, 20_000]),
        "catchup_max": st.integers(1, 12),
        "max_runs": st.integers(1, 15),
        "window": st.sampled_from(["08:10-08:40", "22:00-08:30", "02:00-09:00", "09:00-03:00"]),
        "exclude": st.sampled_from(
            [["2027-01-15T08:00/2027-01-15T08:30"], ["2027-01-14", "2027-01-15T09:00/2027-01-16T00:00"]]
        ),
        "timezone": st.sampled_from(["UTC", "Europe/Berlin"]),
    },
)


@settings(max_examples=300, deadline=None)
@given(SCHEDULES, st.integers(0, 2 * HOUR), st.integers(0, 3 * HOUR), st.integers(0, 12))
def test_it_says_what_a_list_of_all_instants_says(
    fields: dict[str, Any], offset: int, absence: int, fired: int
) -> None:
    one = schedule(**fields)
    cursor = one.next(T0 + offset)
    assert cursor is not None
    now = cursor + absence
    plan = plan_due(one, cursor, now, fired=fired)
    instants = [due for due in one.upcoming(cursor - 1, 3000) if due <= now]
    outcomes, following = expected(one, instants, now, fired)
    if following == "next":
        assert plan.next_ms == one.next(instants[-1])
    else:
        assert plan.next_ms is None
    assert list(flat(plan.spans, instants)) == outcomes
    assert plan.missed is None or plan.missed is plan.spans[0]


def flat(spans: tuple[Span, ...], instants: list[int]):
    """The outcome of each instant; each is in one span."""
    for span in spans:
        inside = [due for due in instants if span.first_ms <= due <= span.last_ms]
        assert (inside[0], inside[-1], len(inside)) == (span.first_ms, span.last_ms, span.count)
        yield from ((due, span.outcome) for due in inside)


def expected(one: Schedule, instants: list[int], now: int, fired: int) -> tuple[list[tuple[int, str]], str]:
    """The rules, one instant after the other."""
    left = 10**9 if one.max_runs is None else max(0, one.max_runs - fired)
    if left == 0:
        return [], "over"
    open_ones = [due for due in instants if one.opening.closed_since(due) is None]
    late = [due for due in open_ones if due >= now - LATE_MS]
    old = [due for due in open_ones if now - one.catchup_window * 1000 <= due < now - LATE_MS]
    if instants[0] >= now - LATE_MS or one.catchup == "skip":
        fires = late
    elif one.catchup == "last":
        fires = (old + late)[-1:]
    else:
        fires = old[-one.catchup_max :] + late
    over = len(fires) >= left
    fires = fires[:left]
    shown = [due for due in instants if due <= fires[-1]] if over else instants
    return [(due, outcome(one, due, fires, instants, shown, now)) for due in shown], "over" if over else "next"


def outcome(one: Schedule, due: int, fires: list[int], instants: list[int], shown: list[int], now: int) -> str:
    if due in fires:
        return "fired"
    if fires and due > fires[0]:
        return "skipped"  # nothing open is left out once something has fired
    ahead = [other for other in shown if due <= other and (not fires or other < fires[0])]
    closed = all(one.opening.closed_since(other) is not None for other in ahead)
    reach = now - LATE_MS
    if instants[0] < reach and one.catchup != "skip":
        reach = min(reach, now - round(one.catchup_window * 1000))
    return "skipped" if closed and due >= reach else "missed"
