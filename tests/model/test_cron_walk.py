"""Cron's arithmetic against a walk along the clock: at random in CI, for every zone there is with `tox -e fuzz`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from model.clockwalk import changes, fires, zones

from taskman.model.cron import Cron

YEARS = (2015, 2035)
CHANGING = (
    "Africa/Casablanca",
    "America/Havana",
    "America/New_York",
    "America/Nuuk",
    "Antarctica/Troll",
    "Asia/Beirut",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Europe/Dublin",
    "Pacific/Chatham",
)
# what people write, and what falls into the hours at which clocks are changed
TYPICAL = (
    "30 2 * * *",
    "10,40 0-3 * * *",
    "*/20 * * * *",
    "0 */2 * * *",
    "15 0 * * SUN",
    "7 1,2,3 */2 * 0-6",
    "* 1-22 * * *",
)


def check(expression: str, zone: ZoneInfo, start: datetime, end: datetime) -> None:
    """The same fire times forwards, backwards and counted."""
    cron = made(expression, zone)
    expected = fires(expression, zone, start, end)
    first, last = int(start.timestamp()) * 1000, int(end.timestamp()) * 1000
    assert list(forwards(cron, first, last)) == expected, (expression, zone.key, start)
    assert list(backwards(cron, last, first)) == expected[::-1], (expression, zone.key, start)
    for cut in (first, *expected[:: max(1, len(expected) // 5)]):
        assert cron.count(cut, last) == sum(one > cut for one in expected), (expression, zone.key, cut)
        assert cron.count(first, cut - 1) == sum(one < cut for one in expected), (expression, zone.key, cut)


def made(expression: str, zone: ZoneInfo) -> Cron:
    try:
        return Cron(expression, zone)
    except ValueError as error:
        if "never fires" in str(error):
            reject()
        raise


def forwards(cron: Cron, first: int, last: int):
    while (following := cron.next(first)) is not None and following <= last:
        yield following
        first = following


def backwards(cron: Cron, last: int, first: int):
    while (before := cron.previous(last)) is not None and before > first:
        yield before
        last = before - 1


def field(low: int, high: int, *special: str) -> st.SearchStrategy[str]:
    """A field: a star or a list of values, ranges (which may wrap) and steps."""
    value = st.integers(low, high)
    step = st.integers(1, (high - low + 1) // 2)
    span = st.tuples(value, value).map(lambda ends: f"{ends[0]}-{ends[1]}")
    rising = st.tuples(value, value, step).map(lambda x: f"{min(x[:2])}-{max(x[:2])}/{x[2]}")
    part = st.one_of(value.map(str), span, rising, *map(st.just, special))
    stars = st.one_of(st.just("*"), step.map(lambda n: f"*/{n}"))
    return st.one_of(stars, st.lists(part, min_size=1, max_size=3).map(",".join))


WEEKDAYS = st.one_of(
    field(0, 7),
    st.sampled_from(["MON-FRI", "fri-sun", "SAT", "FRI#2", "1#1,3#5", "L5", "LSUN", "MON#1,LFRI"]),
)
MINUTES = st.tuples(field(0, 59), field(0, 23), field(1, 31, "L"), field(1, 12, "JAN", "oct-DEC"), WEEKDAYS)
LOW_HOURS = st.tuples(field(0, 59), field(0, 4), st.just("*"), st.just("*"), st.just("*"))
AT_RANDOM = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@AT_RANDOM
@given(st.one_of(MINUTES, LOW_HOURS).map(" ".join), st.sampled_from(CHANGING), st.data())
def test_around_changes_of_the_clock(expression: str, name: str, data: st.DataObject) -> None:
    change = data.draw(st.sampled_from(changes(name, *YEARS)))
    shift = timedelta(minutes=data.draw(st.integers(-200, 200)))
    check(expression, ZoneInfo(name), change - timedelta(hours=6) + shift, change + timedelta(hours=10))


def test_a_day_that_begins_twice_is_found_from_behind() -> None:
    start = datetime(2015, 10, 31, 23, tzinfo=UTC)
    check("1 * * * 0", ZoneInfo("America/Havana"), start, start + timedelta(hours=16))


@AT_RANDOM
@given(MINUTES.map(" ".join), st.datetimes(datetime(1971, 1, 1), datetime(2099, 1, 1)))
def test_at_any_time_where_the_clock_stays(expression: str, start: datetime) -> None:
    begin = start.replace(second=0, microsecond=0, tzinfo=UTC)
    check(expression, ZoneInfo("UTC"), begin, begin + timedelta(days=1, hours=6))


@settings(max_examples=8, deadline=None)
@given(field(0, 59), st.tuples(field(0, 59), field(0, 4)).map(" ".join), st.sampled_from(CHANGING), st.data())
def test_with_seconds(seconds: str, rest: str, name: str, data: st.DataObject) -> None:
    change = data.draw(st.sampled_from(changes(name, *YEARS)))
    check(f"{seconds} {rest} * * *", ZoneInfo(name), change - timedelta(hours=1), change + timedelta(hours=2))


@pytest.mark.parametrize("name", ["Pacific/Apia", "Pacific/Kwajalein", "America/Juneau", "Asia/Manila"])
def test_where_a_whole_day_is_left_out_or_repeated(name: str) -> None:
    early = {"Pacific/Apia": (2011, 12, 29), "Pacific/Kwajalein": (1993, 8, 20)}.get(name, (1983, 10, 29))
    start = datetime(*early, tzinfo=UTC)
    for expression in TYPICAL:
        check(expression, ZoneInfo(name), start, start + timedelta(days=4))


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", zones())
def test_every_zone_around_all_of_its_changes(name: str) -> None:
    for change in (*changes(name, 1985, 1999)[-4:], *changes(name, 2000, 2036)[-40:]):
        for expression in TYPICAL:
            check(expression, ZoneInfo(name), change - timedelta(hours=5), change + timedelta(hours=7))


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(MINUTES, LOW_HOURS).map(" ".join), st.sampled_from(zones()), st.data())
def test_any_expression_in_any_zone(expression: str, name: str, data: st.DataObject) -> None:
    found = changes(name, *YEARS)
    middle = data.draw(st.sampled_from(found)) if found else datetime(2026, 1, 31, tzinfo=UTC)
    check(expression, ZoneInfo(name), middle - timedelta(hours=12), middle + timedelta(hours=20))
