"""Cron expressions: the rules of cron(8) where clocks are changed, day fields, and messages that help."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from taskman.model.cron import Cron


def fires(expression: str, zone: str, start: str, count: int) -> list[str]:
    cron, at, found = Cron(expression, ZoneInfo(zone)), at_ms(start), []
    for _ in range(count):
        following = cron.next(at)
        assert following is not None
        at = following
        found.append(datetime.fromtimestamp(at / 1000, ZoneInfo(zone)).strftime("%m-%d %H:%M%z"))
    return found


def at_ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


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
    at = at_ms("2026-01-01T00:00")
    assert Cron("*/20 * * * * *", ZoneInfo("UTC")).next(at) == at + 20_000


def test_a_range_from_a_value_to_itself_is_that_value() -> None:
    assert fires("0 5-5 * * FRI-5", "UTC", "2026-11-23T00:00", 2) == ["11-27 05:00+0000", "12-04 05:00+0000"]


def test_what_a_gap_has_swallowed_is_known() -> None:
    cron = Cron("10,40 2 * * *", ZoneInfo("Europe/Berlin"))
    gap_end = at_ms("2027-03-28T01:00")
    assert cron.swallowed(gap_end) == [gap_end // 1000 + 3600 + 600, gap_end // 1000 + 3600 + 2400]
    assert cron.swallowed(gap_end + 86_400_000) == []


def test_a_date_that_is_more_than_ten_years_away_is_not_looked_for() -> None:
    cron = Cron("0 0 29 2 */7", ZoneInfo("UTC"))  # the 29th of February, when it is a Sunday: 2032, 2060
    assert fires("0 0 29 2 */7", "UTC", "2026-01-01T00:00", 1) == ["02-29 00:00+0000"]
    assert cron.next(at_ms("2033-01-01T00:00")) is None
    assert cron.previous(at_ms("2059-01-01T00:00")) is None


@pytest.mark.parametrize("moment", ["0002-01-01T00:00", "1899-12-31T23:00", "9899-12-31T23:59", "9998-12-31T00:00"])
def test_far_away_instants_do_no_harm(moment: str) -> None:
    cron = Cron("30 2 * * *", ZoneInfo("Europe/Berlin"))
    at = at_ms(moment)
    following, before = cron.next(at), cron.previous(at)
    assert following is None or following > at
    assert before is None or before <= at
    assert cron.count(at, at + 86_400_000) in (0, 1)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("61 * * * *", "the minute field '61' is not understood: 61 is out of range, write 0-59"),
        ("* 24 * * *", "the hour field '24' is not understood: 24 is out of range, write 0-23"),
        ("* * 0 * *", "the day of month field '0' .* write 1-31 or L"),
        ("* * * 13 *", "the month field '13' .* write 1-12 or JAN-DEC"),
        ("* * * * 9", "the day of week field '9'"),
        ("60 0 0 * * *", "the second field '60'"),
        ("1, * * * *", "the minute field '1,'"),
        ("1-2-3 * * * *", "the minute field '1-2-3'"),
        ("-5 * * * *", "the minute field '-5'"),
        ("٣ * * * *", "the minute field '٣'"),
        ("*/0 * * * *", r"a step is a number from 1 to 60, such as \*/5"),
        ("*/100 * * * *", r"a step is a number from 1 to 60, such as \*/5"),
        ("50-10/5 * * * *", "a range that wraps takes no step: write 50-59/5,0-10/5"),
        ("0 9 * * MO-FR", "the day of week field 'MO-FR' is not understood: did you mean MON-FRI?"),
        ("0 9 * * monday", "did you mean MON?"),
        ("0 9 * sept *", "did you mean SEP?"),
        ("0 9 * * 5L", "write L5 for the last one of the month"),
        ("0 9 * * L", "such as LFRI for the last Friday"),
        ("0 9 * * FRI#6", "FRI#1 to FRI#5, or LFRI"),
        ("0 9 * * 1,FRI#2", "do not mix: make two schedules"),
        ("0 9 ? * MON", "the day of month field .* write \\* for any"),
        ("0 9 15W * *", r"the nearest working day \(W\) is not supported"),
        ("0 9 LW * *", r"the nearest working day \(W\) is not supported"),
        ("0 9 L-3 * *", "days before the last are not supported: write L"),
        ("@every 5m", "write it as 'every': '5m'"),
        ("@reboot", "nothing is due when a machine starts"),
        ("@dayly", "did you mean '@daily'"),
        ("@often", "there is no macro '@often': use @annually"),
        ("* * *", "3 fields: write five .* or six with the seconds first"),
        ("", "0 fields"),
        ("0 0 12 * * MON 2027", r"7 fields: leave the year away, '0 0 12 \* \* MON'"),
        ("R * * * *", "the minute field 'R' .* 'jitter'"),
        ("H * * * *", "the minute field 'H' .* 'jitter'"),
        ("H(0-29) * * * *", "the minute field .* 'jitter'"),
        ("5~30 * * * *", "the minute field '5~30' .* 'jitter'"),
        ("0 0 30 2 *", "never fires: .* the month '2', whose last day is 29"),
        ("* * 31 2 *", "never fires: .* the month '2', whose last day is 29: write L"),
        ("0 0 31 4,6,9,11 *", "never fires: .* whose last day is 30"),
        ("* " * 200, "256 characters"),
    ],
)
def test_nonsense_is_refused_with_the_field(expression: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cron(expression, ZoneInfo("UTC"))
