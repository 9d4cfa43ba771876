"""What is told of a schedule before it is saved: in words, and beside each due instant."""

from __future__ import annotations

import pytest

from taskman.model.instants import parse_instant
from taskman.model.inwords import in_words
from taskman.model.preview import Preview, Surroundings, preview
from taskman.model.schedule import Schedule
from taskman.model.validation import validate

NOON = "2026-11-23T12:00Z"


def schedule(**fields: object) -> Schedule:
    return validate(Schedule, fields).settled("UTC", parse_instant(NOON))


def told(start: str = NOON, count: int = 4, around: Surroundings | None = None, **fields: object) -> Preview:
    return preview(schedule(**fields), parse_instant(start), count, around)


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("30 2 * * 1-5", "At 02:30, on Monday to Friday"),
        ("0 0 13 * FRI", "At 00:00, on the 13th of the month, or on Friday: either is enough"),
        ("0 0 */2 * MON", "At 00:00, on every 2nd day from the 1st if it is Monday: both must match"),
        ("0 0 13 * 0-6", "At 00:00"),
        ("0 0 1,L JAN-MAR *", "At 00:00, on the 1st and last day of the month, in January to March"),
        ("0 0 1-7 1,6 *", "At 00:00, on the 1st to 7th of the month, in January and June"),
        ("0 18 * * LFRI", "At 18:00, on the last Friday of the month"),
        ("0 18 * * MON#1,WED#3", "At 18:00, on the first Monday and third Wednesday of the month"),
        ("0 18 * * FRI-MON", "At 18:00, on Monday, Friday, Saturday and Sunday"),
        ("* * * * *", "Every minute"),
        ("*/20 * * * *", "Every 20 minutes"),
        ("*/20 8-17 * * *", "Every 20 minutes from 08:00 to 17:59"),
        ("*/20 2 * * *", "At 02:00, 02:20 and 02:40"),
        ("*/7 2 * * *", "At minutes 0, 7, 14, 21, 28, 35, 42, 49 and 56 from 02:00 to 02:59"),
        ("*/10 */6 * * *", "Every 10 minutes in every 6th hour from 00:00"),
        ("30 * * * *", "At minute 30 of every hour"),
        ("0 */2 * * *", "Every 2 hours from 00:00"),
        ("0 9-17 * * *", "Every hour from 09:00 to 17:00"),
        ("@hourly", "Every hour"),
        ("@yearly", "At 00:00, on the 1st of the month, in January"),
        ("* * * * * *", "Every second"),
        ("*/20 * * * * *", "Every 20 seconds"),
        ("15 30 4 1 1 *", "At 04:30:15, on the 1st of the month, in January"),
        ("5,35 0 * * * *", "At seconds 5 and 35 of minute 0"),
        ("0 30 2 * * *", "At 02:30"),
    ],
)
def test_cron_in_words(cron: str, words: str) -> None:
    assert in_words(schedule(cron=cron, timezone="Europe/Berlin")) == f"{words}, on the clock of Europe/Berlin"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"every": "10m"}, "Every 10 min"),
        ({"every": 90, "max_runs": 1}, "Every 1 min 30 s, once"),
        ({"at": "2026-12-01T09:00:00Z"}, "Once, 1 December 2026 09:00"),
        ({"after": "5m"}, "5 min after its last run ended"),
        ({"after": [{"task": "a"}, {"task": "b", "on": "always"}]}, "After a succeeds and b ends"),
        (
            {
                "every": "1h",
                "window": "22:00-06:00",
                "exclude": ["2026-12-25"],
                "end": "2027-01-01T00:00Z",
                "jitter": "5m",
            },
            "Every 1 h, only within 22:00 to 06:00, except 2026-12-25, until 1 January 2027 00:00, "
            "each up to 5 min later",
        ),
    ],
)
def test_other_kinds_in_words(fields: dict[str, object], words: str) -> None:
    assert in_words(schedule(**fields)) == words


@pytest.mark.parametrize(
    ("cron", "zone", "start", "expected"),
    [
        (
            "30 2 * * *",
            "America/New_York",
            "2027-03-13T12:00Z",
            [
                ("2027-03-14T03:00:00-04:00", ["02:30 does not exist that day: runs 03:00"]),
                ("2027-03-15T02:30:00-04:00", []),
            ],
        ),
        (
            "10,40 2 * * *",
            "Europe/Berlin",
            "2027-03-28T00:00Z",
            [("2027-03-28T03:00:00+02:00", ["02:10 and 02:40 do not exist that day: runs 03:00"])],
        ),
        (
            "30 1 * * *",
            "America/New_York",
            "2026-10-31T12:00Z",
            [("2026-11-01T01:30:00-04:00", ["01:30 comes twice: runs once"]), ("2026-11-02T01:30:00-05:00", [])],
        ),
        (
            "*/30 * * * *",
            "Australia/Lord_Howe",
            "2027-04-03T14:15Z",
            [
                ("2027-04-04T01:30:00+11:00", ["01:30 comes twice: runs both times"]),
                ("2027-04-04T01:30:00+10:30", ["01:30 comes twice: runs both times"]),
            ],
        ),
        (
            "30 * * * *",
            "Europe/Berlin",
            "2027-03-28T00:00Z",
            [
                ("2027-03-28T01:30:00+01:00", []),
                ("2027-03-28T03:30:00+02:00", ["02:30 does not exist that day"]),
            ],
        ),
        (
            "15 0 * * *",
            "America/Havana",
            "2027-03-13T12:00Z",
            [("2027-03-14T01:00:00-04:00", ["00:15 does not exist that day: runs 01:00"])],
        ),
    ],
)
def test_changes_of_the_clock_are_noted(
    cron: str, zone: str, start: str, expected: list[tuple[str, list[str]]]
) -> None:
    items = told(start, len(expected), cron=cron, timezone=zone).to_json()["items"]
    assert [(one["local"], one["notes"]) for one in items] == expected


@pytest.mark.parametrize(
    ("cron", "warning"),
    [
        ("30 2 * * *", "28 March 2027: 02:30 does not exist that day: runs 03:00"),
        ("0 */2 * * *", "31 October 2027: 02:00 comes twice: runs once"),
        ("*/7 * * * *", "*/7 counts anew at minute 0: the last step is 4 minutes, not 7"),
        (
            "* 30 2 * * *",
            "the first of six fields is the second: it fires every second; write 0 there for once a minute",
        ),
        ("* 2 * * *", "it fires every minute of these hours: for once an hour write '0 2 * * *'"),
        ("0 9 31 * *", "shorter months have no 31st: write L for the last day of each month"),
    ],
)
def test_what_is_probably_not_meant_is_said(cron: str, warning: str) -> None:
    assert warning in told(cron=cron, timezone="Europe/Berlin").warnings


@pytest.mark.parametrize("cron", ["0 12 * * *", "*/20 * * * * *", "0 9 L * *", "0 0 29 2 *"])
def test_what_is_plain_is_not_commented(cron: str) -> None:
    assert told(cron=cron, timezone="Europe/Berlin").warnings == []


def test_what_will_be_skipped_is_shown_as_such() -> None:
    hourly = told(cron="0 * * * *", window="14:00-08:00", exclude=["2026-11-23T14:00/2026-11-23T15:00"])
    notes = [one.notes for one in hourly.items]
    assert notes == [("outside the window 14:00-08:00: skipped",), ("excluded: skipped",), (), ()]
    assert [one.is_skipped for one in hourly.items] == [True, True, False, False]
    closed = told(cron="0 12 * * *", exclude=["2026-11-01/2027-11-01"])
    assert closed.warnings == ["all of the next ones are skipped: look at the window and the excluded dates"]


def test_what_is_around_is_noted() -> None:
    others = [
        (schedule(cron="0 * * * *"), 1),
        (schedule(every="1h", anchor="2026-11-23T00:30Z"), 1),
        (schedule(at="2026-11-23T13:00Z"), 4),
    ]
    around = Surroundings(task="nightly", usual_s=2400, others=others)
    items = told(count=2, around=around, cron="*/30 * * * *").items
    assert items[0].notes == ("collides with 1 other",)
    assert items[1].notes == ("would overlap: usually takes 40 min", "collides with 5 others")
    some = Surroundings(others=others[:1], others_are_all=False)
    assert told(count=2, around=some, cron="0 * * * *").items[0].notes == ("collides with at least 1 other",)


def test_the_jitter_of_a_task_is_told_exactly() -> None:
    spread = schedule(cron="0 * * * *", jitter="10m")
    one = preview(spread, parse_instant(NOON), 1, Surroundings(task="nightly")).items[0]
    assert one.at_ms == parse_instant("2026-11-23T13:00Z")
    seconds = spread.jitter_ms("nightly", one.at_ms) / 1000
    assert one.notes == (f"starts {seconds // 60:.0f} min {round(seconds) % 60} s later (jitter)",)


def test_no_more_is_told_than_will_come() -> None:
    assert len(told(cron="0 * * * *", max_runs=2).items) == 2
    assert told(after="5m").items == []
    assert told("2027-01-01T00:00Z", at="2026-12-01T00:00Z").items == []
