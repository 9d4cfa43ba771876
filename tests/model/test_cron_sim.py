"""Agreement with cronsim, which follows Debian's cron; and where we differ from it on purpose."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim, CronSimError
from hypothesis import given, settings
from hypothesis import strategies as st
from model.clockwalk import changes

from taskman.model.cron import HORIZON_S, Cron

ZONES = ("Europe/Berlin", "America/New_York", "America/Havana", "Pacific/Chatham", "UTC")
START = datetime(2027, 1, 30, tzinfo=UTC)


def theirs(expression: str, zone: str, start: datetime, count: int) -> list[int]:
    found = islice(CronSim(expression, start.astimezone(ZoneInfo(zone))), count)
    return [int(one.timestamp() * 1000) for one in found]


def ours(expression: str, zone: str, start: datetime, count: int) -> list[int]:
    cron, at, found = Cron(expression, ZoneInfo(zone)), int(start.timestamp() * 1000), []
    while len(found) < count and (following := cron.next(at)) is not None:
        found.append(at := following)
    return found


def field(low: int, high: int, *, star: bool = True) -> st.SearchStrategy[str]:
    value = st.integers(low, high)
    step = st.integers(1, 5)
    span = st.tuples(st.integers(low, high - 1), value, step).map(_span)
    values = st.lists(st.one_of(value.map(str), span), min_size=1, max_size=3).map(",".join)
    return st.one_of(values, st.just("*"), step.map(lambda n: f"*/{n}")) if star else values


def _span(drawn: tuple[int, int, int]) -> str:
    """A range that is none to both of us when it has one value only: they take `5-5/2` for `5/2`."""
    first, last, step = drawn
    return f"{first}-{max(last, first + 1)}/{step}"


DAYS = st.tuples(field(1, 28), field(1, 12), st.one_of(field(0, 6), st.sampled_from(["MON-FRI", "SAT,SUN", "FRI#2"])))
CALM = st.tuples(field(0, 59), field(0, 23), DAYS.map(" ".join)).map(" ".join)
FIXED = st.tuples(field(0, 59, star=False), field(0, 4, star=False)).map(lambda x: f"{x[0]} {x[1]} * * *")
HOURLY = field(0, 59).map(lambda minute: f"{minute} * * * *")


@settings(max_examples=150, deadline=None)
@given(CALM)
def test_where_no_clock_is_changed_we_agree(expression: str) -> None:
    found, expected = ours(expression, "UTC", START, 20), theirs(expression, "UTC", START, 20)
    assert found == expected[: len(found)]
    if len(found) < 20:  # we look ten years ahead, they fifty
        assert expected[len(found)] - (found or [int(START.timestamp() * 1000)])[-1] > HORIZON_S * 1000


@settings(max_examples=150, deadline=None)
@given(st.one_of(FIXED, HOURLY), st.sampled_from(ZONES[:-1]), st.data())
def test_where_a_clock_is_changed_we_agree_on_fixed_times_and_on_every_hour(
    expression: str, zone: str, data: st.DataObject
) -> None:
    start = data.draw(st.sampled_from(changes(zone, 2024, 2030))) - timedelta(days=1)
    assert ours(expression, zone, start, 40) == theirs(expression, zone, start, 40)


@pytest.mark.parametrize(
    ("expression", "zone", "around", "reason"),
    [
        # Debian takes any minute or hour field that begins with a star for "follows elapsed time"; for us only an
        # expression that fires in every hour does, since who writes 2 as the hour means one hour a day.
        ("*/20 2 * * *", "Europe/Berlin", "2027-03-28", "a gap swallows the day's fire times: Debian leaves them out"),
        ("*/20 2 * * *", "Europe/Berlin", "2027-10-31", "a repeated hour: Debian fires in both"),
        ("0 */2 * * *", "Europe/Berlin", "2027-03-28", "02:00 does not exist: Debian leaves it out"),
        ("0 */2 * * *", "Europe/Berlin", "2027-10-31", "02:00 comes twice: Debian fires twice"),
        # written out, all 24 hours are the same as a star for us, and fixed times for Debian
        ("30 0-23 * * *", "Europe/Berlin", "2027-10-31", "02:30 comes twice: Debian fires once"),
        ("30 0-23 * * *", "Europe/Berlin", "2027-03-28", "02:30 does not exist: Debian fires at 03:00 and at 03:30"),
    ],
)
def test_where_we_differ_about_changed_clocks(expression: str, zone: str, around: str, reason: str) -> None:
    start = datetime.fromisoformat(around).replace(tzinfo=UTC) - timedelta(hours=12)
    assert ours(expression, zone, start, 60) != theirs(expression, zone, start, 60), reason


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("0 22-2 * * *", "ranges that wrap"),
        ("0 0 * * FRI-MON", "ranges of weekdays that wrap"),
        ("0 0 * * L5", "the last Friday, as croniter writes it"),
        ("@daily", "macros"),
    ],
)
def test_what_only_we_take(expression: str, reason: str) -> None:
    assert ours(expression, "UTC", START, 1), reason
    with pytest.raises(CronSimError):
        theirs(expression, "UTC", START, 1)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("0 0 * * 5L", "the last Friday, as cronsim writes it: we show how to write it here"),
        ("0 0 LW * *", "the last working day"),
        ("*/100 * * * *", "a step past the end of the field is a mistake"),
        ("0 0 * * 1,FRI#2", "days and numbered days together"),
    ],
)
def test_what_only_they_take(expression: str, reason: str) -> None:
    assert theirs(expression, "UTC", START, 1), reason
    with pytest.raises(ValueError, match="is not understood"):
        ours(expression, "UTC", START, 1)
