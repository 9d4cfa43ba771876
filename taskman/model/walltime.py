"""The wall clock of a time zone: the stretches of time during which its distance from UTC stays the same."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

__all__ = ["FIRST_S", "LAST_S", "Stretch", "changes_within_a_year", "stretch_at"]

FIRST_S = int(datetime(1900, 1, 1, tzinfo=UTC).timestamp())
LAST_S = int(datetime(9900, 1, 1, tzinfo=UTC).timestamp())
_DAY_S = 86_400
# no change of a clock has been larger than a day; so what was on the wall three days ago does not come again
_SETTLED_S = 3 * _DAY_S


@dataclass(frozen=True, slots=True)
class Stretch:
    """From `start` until before `end` (epoch seconds) the wall clock is `offset` seconds ahead of UTC.

    `shown` is the wall clock, in seconds as if it were UTC, up to where it had come before: later than the start
    when the clock was put back, earlier when it was put forward. Stretches end with the year at the latest.
    """

    start: int
    end: int
    offset: int
    shown: int


def stretch_at(zone: ZoneInfo, at_s: int) -> Stretch:
    """The stretch that an instant from FIRST_S to LAST_S lies in."""
    starts, stretches = _year(zone, datetime.fromtimestamp(at_s, UTC).year)
    return stretches[bisect_right(starts, at_s) - 1]


def changes_within_a_year(zone: ZoneInfo, at_s: int) -> bool:
    """Whether the clock of the zone is changed in the year after an instant."""
    stretch = stretch_at(zone, at_s)
    offset, limit = stretch.offset, at_s + 366 * _DAY_S
    while stretch.end < limit:
        stretch = stretch_at(zone, stretch.end)
        if stretch.offset != offset:
            return True
    return False


@lru_cache(maxsize=8192)
def _year(zone: ZoneInfo, year: int) -> tuple[list[int], list[Stretch]]:
    first, last = (int(datetime(one, 1, 1, tzinfo=UTC).timestamp()) for one in (year, year + 1))
    found, start = [], first - _SETTLED_S
    shown = start + _offset(zone, start)
    while start < last:
        offset = _offset(zone, start)
        end = _change_after(zone, start, offset, last)
        begin = max(start, first)
        if end > first:
            found.append(Stretch(begin, end, offset, max(shown, begin + offset) if begin > start else shown))
        shown, start = max(shown, end + offset), end
    return [one.start for one in found], found


def _change_after(zone: ZoneInfo, start: int, offset: int, limit: int) -> int:
    """The first instant after `start` with another offset; `limit` when there is none before it."""
    low = start
    while low < limit:
        high = min(low + _DAY_S, limit)
        if _offset(zone, high) != offset:
            return _boundary(zone, low, high, offset)
        low = high
    return limit


def _boundary(zone: ZoneInfo, low: int, high: int, offset: int) -> int:
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _offset(zone, middle) == offset else (low, middle)
    return high


def _offset(zone: ZoneInfo, at_s: int) -> int:
    offset = datetime.fromtimestamp(at_s, zone).utcoffset()
    return 0 if offset is None else offset.days * _DAY_S + offset.seconds
