"""Cron expressions: the rules of cron(8) where clocks are changed, day fields, and messages that help."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from taskman.model.cron import Cron


def fires(expression: str, zone: str, start: str, count: int) -> list[str]:
    cron, at, found = Cron(expression, ZoneInfo(zone)), datetime.fromisoformat(start).replace(tzinfo=UTC), []
    for _ in range(count):
        following = cron.next(at)
        assert following is not None
        at = following
        found.append(at.astimezone(ZoneInfo(zone)).strftime("%m-%d %H:%M%z"))
    return found


@pytest.mark.parametrize(
    ("expression", "zone", "start", "expected"),
    [
        # a fixed time that comes twice fires the first time
        ("30 1 * * *", "America/New_York", "2026-10-31T12:00", ["11-01 01:30-0400", "11-02 01:30-0500"]),
        # a fixed time that does not exist fires at the end of the gap, once
        ("30 2 * * *", "America/New_York", "2026-03-07T12:00", ["03-08 03:00-0400", "03-09 02:30-0400"]),
        ("10,40 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["03-29 03:00+0200", "03-30 02:10+0200"]),
        # every hour means elapsed time: both passes fire, and nothing is made up for the gap
        ("30 * * * *", "America/New_York", "2026-11-01T04:45", ["11-01 01:30-0400", "11-01 01:30-0500"]),
        ("30 * * * *", "Europe/Berlin", "2026-03-29T00:00", ["03-29 01:30+0100", "03-29 03:30+0200"]),
        # a change of half an hour, and a change at midnight
        ("*/30 * * * *", "Australia/Lord_Howe", "2026-04-04T14:15", ["04-05 01:30+1100", "04-05 01:30+1030"]),
        ("15 0 * * *", "America/Havana", "2026-03-07T12:00", ["03-08 01:00-0400", "03-09 00:15-0400"]),
        # day of month or day of week; and both where one begins with a star
        ("0 0 13 * FRI", "UTC", "2026-03-10T00:00", ["03-13 00:00+0000", "03-20 00:00+0000"]),
        ("0 0 */2 * MON", "UTC", "2026-03-08T00:00", ["03-09 00:00+0000", "03-23 00:00+0000"]),
        ("@daily", "UTC", "2026-03-08T00:00", ["03-09 00:00+0000", "03-10 00:00+0000"]),
        ("0 0 29 2 *", "UTC", "2026-03-08T00:00", ["02-29 00:00+0000"]),
    ],
)
def test_fire_times(expression: str, zone: str, start: str, expected: list[str]) -> None:
    assert fires(expression, zone, start, len(expected)) == expected


def test_six_fields_have_the_seconds_first() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    following = Cron("*/20 * * * * *", ZoneInfo("UTC")).next(at)
    assert following is not None
    assert (following - at).total_seconds() == 20


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("61 * * * *", "the minute field '61'"),
        ("* 24 * * *", "the hour field '24'"),
        ("* * 0 * *", "the day of month field '0'"),
        ("* * * 13 *", "the month field '13'"),
        ("* * * * 9", "the day of week field '9'"),
        ("* * *", "3 fields"),
        ("", "0 fields"),
        ("@often", "no macro"),
        ("R * * * *", "the minute field 'R'"),
        ("H * * * *", "the minute field 'H'"),
        ("0 0 30 2 *", "does not fire within ten years"),
        ("0 0 31 4,6,9,11 *", "does not fire within ten years"),
        ("* " * 200, "256 characters"),
    ],
)
def test_nonsense_is_refused_with_the_field(expression: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cron(expression, ZoneInfo("UTC"))
