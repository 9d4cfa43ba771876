"""Schedules: when tasks are due, and what to do about instants that nobody was there for."""

from __future__ import annotations

import pytest

from taskman.errors import InvalidInput
from taskman.model.instants import parse_instant
from taskman.model.schedule import Schedule
from taskman.model.validation import validate

T0 = parse_instant("2027-01-15T08:00:00Z")
YEAR_MS = 366 * 86_400_000


def schedule(**fields: object) -> Schedule:
    return validate(Schedule, fields).settled("UTC", T0)


def test_every_counts_from_its_anchor() -> None:
    every = schedule(every="10m", anchor="2027-01-15T07:57:00Z")
    assert every.next(T0) == T0 + 7 * 60_000
    assert list(every.upcoming(T0, 2)) == [T0 + 7 * 60_000, T0 + 17 * 60_000]


def test_every_without_an_anchor_begins_one_period_after_it_was_saved() -> None:
    assert schedule(every=5).next(T0) == T0 + 5000


def test_an_anchor_in_the_future_is_the_start() -> None:
    assert schedule(every="1h", anchor="2027-01-16T00:00:00Z").next(T0) == T0 + 17 * 3_600_000


def test_at_is_due_once() -> None:
    at = schedule(at="2027-01-15T09:00:00+01:00")
    assert at.next(T0 - 1) == T0
    assert at.next(T0) is None


def test_start_and_end_bound_it() -> None:
    bounded = schedule(cron="0 * * * *", start="2027-01-15T10:00:00Z", end="2027-01-15T11:00:00Z")
    assert list(bounded.upcoming(T0, 5)) == [T0 + 7_200_000, T0 + 10_800_000]


@pytest.mark.parametrize(
    "fields", [{"every": "7s"}, {"cron": "*/5 * * * *"}, {"cron": "30 2 * * 1-5"}, {"cron": "0 0 1 1 *"}]
)
@pytest.mark.parametrize("absence_ms", [1, 60_000, 86_400_000, YEAR_MS])
def test_the_latest_due_instant_is_the_last_one_before_now(fields: dict[str, str], absence_ms: int) -> None:
    one = schedule(**fields)
    first = one.next(T0)
    assert first is not None
    now = first + absence_ms
    latest = one.latest(first, now)
    following = one.next(latest)
    assert first <= latest <= now
    assert following is not None
    assert following > now
    assert one.count(latest, now) == 0
    assert one.count(first - 1, now) == (1 if latest == first else one.count(first - 1, latest - 1) + 1)


@pytest.mark.parametrize(
    ("fields", "pointer", "message"),
    [
        ({}, "", "exactly one"),
        ({"cron": "* * * * *", "every": 5}, "", "exactly one"),
        ({"cron": "61 * * * *"}, "/cron", "minute"),
        ({"every": "0.5s"}, "/every", "at least 1s"),
        ({"every": "soon"}, "/every", "no duration"),
        ({"at": "2027-01-15T09:00:00"}, "/at", "offset"),
        ({"at": "tomorrow"}, "/at", "write an instant"),
        ({"cron": "* * * * *", "timezone": "Mars/Olympus"}, "/timezone", "no time zone"),
        ({"cron": "* * * * *", "timezon": "UTC"}, "/timezon", "did you mean 'timezone'"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, object], pointer: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        validate(Schedule, fields)
    assert caught.value.faults[0].pointer == pointer
    assert message in caught.value.faults[0].detail


def test_it_reads_back_the_same_from_its_json() -> None:
    one = schedule(every="90s", start="2027-01-15T10:00:00.250Z")
    assert validate(Schedule, one.to_json()) == one
