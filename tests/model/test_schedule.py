"""Schedules: when tasks are due, and what to do about instants that nobody was there for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskman.errors import InvalidInput
from taskman.model.chain import chain_due, circle_through
from taskman.model.instants import parse_instant
from taskman.model.schedule import Schedule
from taskman.model.states import State
from taskman.model.task import TaskDefinition
from taskman.model.validation import validate

T0 = parse_instant("2027-01-15T08:00:00Z")
HOUR_MS, DAY_MS, YEAR_MS = 3_600_000, 86_400_000, 366 * 86_400_000


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
        ({"cron": "* * * * *", "start": "2027-01-02T00:00Z", "end": "2027-01-01T00:00Z"}, "", "'end' is before"),
        ({"cron": "* * * * *", "anchor": "2027-01-02T00:00Z"}, "", "goes with 'every', not with 'cron'"),
        ({"cron": "* * * * *", "max_runs": 0}, "/max_runs", "greater than or equal to 1"),
        ({"cron": "* * * * *", "jitter": "soon"}, "/jitter", "no duration"),
        ({"cron": "* * * * *", "catchup": "latest"}, "/catchup", "'last', 'all' or 'skip'"),
        ({"cron": "* * * * *", "catchup_max": 1001}, "/catchup_max", "less than or equal to 1000"),
        ({"cron": "* * * * *", "window": "22-6"}, "/window", "write two times of the day as 22:00-06:00"),
        ({"cron": "* * * * *", "window": "22:00-22:00"}, "/window", "opens and closes at once"),
        ({"cron": "* * * * *", "window": "22:00-25:00"}, "/window", "from 00:00 to 24:00"),
        ({"cron": "0 12 * * *", "window": "22:00-06:00"}, "", "no fire time of '0 12 * * *' lies in the window"),
        ({"cron": "* * * * *", "exclude": ["christmas"]}, "/exclude", "'christmas' is no date: write a date such as"),
        ({"cron": "* * * * *", "exclude": ["2027-01-02/2027-01-01"]}, "/exclude", "ends before it begins"),
        ({"cron": "* * * * *", "exclude": ["2027-01-01T08:00"]}, "/exclude", "needs two dates, or two times"),
        ({"cron": "* * * * *", "exclude": 7}, "/exclude", "takes a list of texts"),
        ({"cron": "* * * * *", "exclude": [f"{y}-01-01" for y in range(2000, 3001)]}, "/exclude", "1001 dates are too"),
        ({"every": "5m", "jitter": "5m"}, "", "'jitter' must be shorter than 'every'"),
        ({"at": "2027-01-15T09:00Z", "max_runs": 2}, "", "'max_runs' does not go with 'at'"),
        ({"at": "2027-01-15T09:00Z", "window": "08:00-09:00"}, "", "'window' does not go with 'at'"),
        ({"at": "2027-01-15T09:00Z", "end": "2027-01-15T08:00Z"}, "", "'at' does not lie between"),
        ({"after": "5m", "every": "5m"}, "", "exactly one"),
        ({"after": "soon"}, "/after", "no duration"),
        ({"after": []}, "/after", "name a task at least"),
        ({"after": [{"task": "a b"}]}, "/after/0/task", "cannot be a name"),
        ({"after": [{"task": "a"}, {"task": "a", "on": "failure"}]}, "/after", "names a task twice"),
        ({"after": "5m", "catchup": "all"}, "", "'catchup' does not go with 'after'"),
        ({"after": "5m", "jitter": "1m"}, "", "'jitter' does not go with 'after'"),
        ({"after": [{"task": "a"}], "anchor": "2027-01-02T00:00Z"}, "", "goes with 'every', not with 'after'"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, object], pointer: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        validate(Schedule, fields)
    assert [fault.pointer for fault in caught.value.faults] == [pointer]
    assert message in caught.value.faults[0].detail


@pytest.mark.parametrize(
    "fields",
    [
        {"every": "90s", "start": "2027-01-15T10:00:00.250Z"},
        {"cron": "@daily", "catchup": "all", "catchup_window": "2h", "jitter": "5m", "max_runs": 3, "params": {"a": 1}},
        {
            "cron": "0 23 * * *",
            "window": "22:00 - 6:00",
            "exclude": ["2026-12-25", "2026-12-24T12:00/2026-12-24T18:00"],
        },
        {"after": "5m"},
        {"after": [{"task": "backup"}, {"task": "check", "on": "always"}]},
    ],
)
def test_it_reads_back_the_same_from_its_json(fields: dict[str, object]) -> None:
    one = schedule(**fields)
    assert validate(Schedule, one.to_json()) == one


def test_its_json_shows_only_what_somebody_said() -> None:
    assert schedule(cron="@daily").to_json() == {"cron": "@daily", "timezone": "UTC"}


def test_previous_and_count_keep_the_bounds() -> None:
    bounded = schedule(cron="0 * * * *", start="2027-01-15T10:00:00Z", end="2027-01-15T11:00:00Z")
    assert bounded.previous(T0 + DAY_MS) == T0 + 3 * HOUR_MS
    assert bounded.previous(T0 + HOUR_MS) is None
    assert bounded.count(T0, T0 + DAY_MS) == 2
    assert schedule(at="2027-01-15T09:00Z").count(T0, T0 + HOUR_MS) == 1
    every = schedule(every="1h")
    assert (every.previous(T0), every.count(T0 - DAY_MS, T0 + 3 * HOUR_MS)) == (None, 3)


# jitter


def test_jitter_is_the_same_each_time_and_another_for_another_task_or_instant() -> None:
    spread = schedule(cron="0 * * * *", jitter="10m")
    drawn = {spread.jitter_ms(task, T0 + hour * HOUR_MS) for task in ("a", "b") for hour in range(100)}
    assert len(drawn) > 190
    assert spread.jitter_ms("a", T0) == schedule(cron="0 * * * *", jitter="10m").jitter_ms("a", T0)
    assert 0 <= min(drawn) < 30_000
    assert 570_000 < max(drawn) <= 600_000


def test_jitter_never_reaches_the_next_instant() -> None:
    spread = schedule(cron="* * * * *", jitter="1h")
    assert all(0 <= spread.jitter_ms(f"task-{number}", T0) < 60_000 for number in range(300))
    assert schedule(cron="* * * * *").jitter_ms("a", T0) == 0


# the window and what is excluded


def closed(one: Schedule, text: str) -> bool:
    return one.opening.closed_since(parse_instant(text)) is not None


def test_a_window_is_open_from_its_first_minute_until_before_its_last() -> None:
    day = schedule(every="1m", window="08:00-17:00")
    assert [closed(day, f"2027-01-15T{at}Z") for at in ("07:59:59", "08:00", "16:59:59", "17:00")] == [
        True,
        False,
        False,
        True,
    ]


def test_a_window_may_go_over_midnight() -> None:
    night = schedule(every="1m", window="22:00-06:00")
    times = ("21:59", "22:00", "23:59", "00:00", "05:59", "06:00", "12:00")
    assert [closed(night, f"2027-01-15T{at}Z") for at in times] == [True, False, False, False, False, True, True]
    assert closed(schedule(every="1m", window="22:00-24:00"), "2027-01-15T00:00Z")


@pytest.mark.parametrize(
    ("instant", "is_closed"),
    [
        ("2027-03-28T00:59:00Z", True),  # 01:59, the last minute before the gap
        ("2027-03-28T01:00:00Z", False),  # 03:00, and 02:00 did not exist: 02:30-03:30 is open at once
        ("2027-03-28T01:29:00Z", False),
        ("2027-03-28T01:30:00Z", True),
        ("2027-10-31T00:30:00Z", False),  # 02:30, the first time
        ("2027-10-31T00:59:00Z", False),
        ("2027-10-31T01:00:00Z", True),  # 02:00 again
        ("2027-10-31T01:30:00Z", False),  # 02:30 again
        ("2027-10-31T02:30:00Z", True),
    ],
)
def test_a_window_goes_by_what_the_wall_clock_shows(instant: str, is_closed: bool) -> None:
    assert closed(schedule(every="1m", window="02:30-03:30", timezone="Europe/Berlin"), instant) is is_closed


@given(st.sampled_from(["02:30-03:30", "22:00-06:00", "00:00-12:00"]), st.integers(-40, 40), st.sampled_from([3, 10]))
def test_it_was_closed_all_the_time_since_it_says_so(window: str, hours: int, month: int) -> None:
    change = parse_instant("2027-03-28T01:00Z" if month == 3 else "2027-10-31T01:00Z")
    at = change + hours * HOUR_MS
    opening = schedule(every="1m", window=window, timezone="Europe/Berlin").opening
    since = opening.closed_since(at)
    if since is not None:
        assert since <= at
        assert all(opening.closed_since(minute) is not None for minute in range(since, at, 60_000))


def test_dates_are_days_of_the_schedules_zone() -> None:
    one = schedule(cron="0 * * * *", timezone="America/New_York", exclude=["2026-12-25", "2026-12-31/2027-01-01"])
    assert not closed(one, "2026-12-25T04:59:59Z")
    assert closed(one, "2026-12-25T05:00:00Z")
    assert not closed(one, "2026-12-26T05:00:00Z")
    assert closed(one, "2027-01-02T04:59:59Z")
    assert one.opening.excluded_since(parse_instant("2027-01-01T12:00Z")) == parse_instant("2026-12-31T05:00Z")


CALENDAR = """BEGIN:VCALENDAR
VERSION:2.0
BEGIN:VEVENT
SUMMARY:Christmas
DTSTART;VALUE=DATE:20261225
DTEND;VALUE=DATE:20261227
END:VEVENT
BEGIN:VEVENT
SUMMARY:A day
DTSTART;VALUE=DATE:20270101
END:VEVENT
BEGIN:VEVENT
DTSTART;TZID=Europe/Berlin:20270201T220000
DURATION:PT2H
SUMMARY:A text that is so long that it goes on in
  the next line: of course
END:VEVENT
BEGIN:VEVENT
DTSTART:20270301T090000Z
DTEND:20270301T100000Z
END:VEVENT
BEGIN:VEVENT
DTSTART:20270302T090000
DTEND:20270302T100000
END:VEVENT
END:VCALENDAR
"""


def test_a_calendar_becomes_plain_dates_and_times() -> None:
    expected = [
        "2026-12-25/2026-12-26",
        "2027-01-01",
        "2027-02-01T22:00:00+01:00/2027-02-02T00:00:00+01:00",
        "2027-03-01T09:00:00+00:00/2027-03-01T10:00:00+00:00",
        "2027-03-02T09:00:00/2027-03-02T10:00:00",
    ]
    for text in (CALENDAR, CALENDAR.replace("\n", "\r\n")):
        assert schedule(cron="@hourly", exclude=text).exclude == expected
    assert schedule(cron="@hourly", exclude=["2026-11-01", CALENDAR]).exclude == ["2026-11-01", *expected]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("RRULE:FREQ=YEARLY", "the event 'Party' repeats (RRULE): export the calendar with its single dates"),
        ("DTEND:20270101T100000Z", "begins with a time and ends with a date, or the other way"),
        ("DURATION:2h", "the event 'Party': '2h' is no DURATION"),
        ("DTEND;VALUE=DATE:2027", "'2027' is no date or time"),
    ],
)
def test_an_event_that_cannot_be_read_is_named(line: str, message: str) -> None:
    text = f"BEGIN:VCALENDAR\nBEGIN:VEVENT\nSUMMARY:Party\nDTSTART;VALUE=DATE:20270101\n{line}\nEND:VEVENT\n"
    with pytest.raises(InvalidInput) as caught:
        schedule(cron="@daily", exclude=text)
    assert message in caught.value.faults[0].detail


# after


def test_a_delay_after_completion_counts_from_the_end_of_the_last_run() -> None:
    one = schedule(after="5m", end="2027-01-15T10:00Z")
    assert one.next(T0) is None
    assert not one.is_timed
    assert one.due_after(None) == T0 + 300_000
    assert one.due_after(T0 + HOUR_MS) == T0 + HOUR_MS + 300_000
    assert one.due_after(T0 + 2 * HOUR_MS) is None
    assert schedule(after="5m", start="2027-01-16T00:00Z").due_after(T0) == parse_instant("2027-01-16T00:00Z")


def test_a_chain_is_due_when_all_have_ended_as_wanted_since_it_was_due_last() -> None:
    chain = schedule(after=[{"task": "backup"}, {"task": "check", "on": "always"}]).after
    assert isinstance(chain, list)
    both = {"backup": (T0 + 1, State.SUCCEEDED), "check": (T0 + 2, State.FAILED)}
    assert chain_due(chain, both, T0) == T0 + 2
    assert chain_due(chain, both, T0 + 1) is None
    assert chain_due(chain, {"backup": (T0 + 1, State.SUCCEEDED)}, T0) is None
    assert chain_due(chain, both | {"backup": (T0 + 3, State.FAILED)}, T0) is None
    assert chain_due(chain, both | {"check": (T0 + 3, State.SKIPPED)}, T0) is None


def test_a_circle_of_chains_is_found() -> None:
    assert circle_through("a", {"a": ["b", "c"], "b": [], "c": ["d"], "d": ["a"]}) == ["a", "c", "d", "a"]
    assert circle_through("a", {"a": ["b"], "b": ["c"], "c": ["b"]}) is None


def test_a_task_cannot_wait_for_itself() -> None:
    with pytest.raises(InvalidInput, match="'a' cannot wait for itself: write a delay"):
        validate(TaskDefinition, {"name": "a", "type": "shell", "schedules": [{"after": [{"task": "a"}]}]})
