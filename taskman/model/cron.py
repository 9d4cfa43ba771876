"""Cron expressions: when they fire, by rules of our own for changed clocks and for the two day fields.

Fire times are found by arithmetic on the values of the fields, on a wall clock that knows no zone; a zone then turns
the wall clock's times into instants. So a step of a year costs no more than a step of a second.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from calendar import monthrange
from collections.abc import Iterator
from datetime import date
from functools import lru_cache
from zoneinfo import ZoneInfo

from .cronfields import CronFields, read_fields
from .walltime import FIRST_S, LAST_S, Stretch, stretch_at

__all__ = ["HORIZON_S", "Cron", "WallTimes"]

HORIZON_S = 3653 * 86_400
_DAY_S = 86_400
_EPOCH = date(1970, 1, 1).toordinal()
# further than any fire time can be from its place on the wall clock
_SLACK_S = 2 * _DAY_S


class Cron:
    """A cron expression of five fields, or six with the seconds first, or a macro such as @daily, in a zone.

    Raises ValueError, with the field and the remedy, for an expression that is nonsense or never fires.
    """

    def __init__(self, expression: str, zone: ZoneInfo) -> None:
        self.expression, self.zone = expression, zone
        self.fields = read_fields(expression)
        self.wall = WallTimes(self.fields)
        self.every_hour = len(self.fields.hours) == 24
        if not self.wall.has_any():
            raise ValueError(_never(expression, self.fields))

    def next(self, after_ms: int) -> int | None:
        """The first fire time after that instant, epoch ms; None when there is none within ten years."""
        at = max(after_ms // 1000 + 1, FIRST_S)
        limit = min(at + HORIZON_S, LAST_S)
        while at <= limit:
            stretch = stretch_at(self.zone, at)
            local = self.wall.first(self._entry(stretch, at))
            if local is None:
                return None
            if local < stretch.end + stretch.offset:
                fire = max(local - stretch.offset, stretch.start)
                return fire * 1000 if fire <= limit else None
            at = max(stretch.end, local - stretch.offset - _SLACK_S)
        return None

    def previous(self, at_ms: int) -> int | None:
        """The last fire time up to and including that instant, epoch ms; None when there is none within ten years."""
        at = min(at_ms // 1000, LAST_S)
        limit = max(at - HORIZON_S, FIRST_S)
        while at >= limit:
            stretch = stretch_at(self.zone, at)
            local = self.wall.last(at + stretch.offset)
            if local is None:
                return None
            if local >= self._low(stretch):
                fire = max(local - stretch.offset, stretch.start)
                return fire * 1000 if fire >= limit else None
            at = stretch.start - 1
            if stretch.shown <= stretch.start + stretch.offset:  # else the wall had been further before it was put back
                at = min(at, local - stretch.offset + _SLACK_S)
        return None

    def count(self, after_ms: int, until_ms: int) -> int:
        """How many fire times there are after one instant, up to and including another."""
        at, until = max(after_ms // 1000 + 1, FIRST_S), min(until_ms // 1000, LAST_S)
        total = 0
        while at <= until:
            stretch = stretch_at(self.zone, at)
            start = self._entry(stretch, at)
            total += self.wall.count(start, min(until, stretch.end - 1) + stretch.offset)
            gap_end = stretch.start + stretch.offset
            if start < gap_end:  # what the gap has swallowed fires once, with what is due at its end
                total -= max(0, self.wall.count(start, gap_end) - 1)
            at = stretch.end
        return total

    def fires_between(self, first: int, last: int) -> bool:
        """Whether it has a fire time between two seconds of a day, both included."""
        return self.wall.has_between(first, last)

    def swallowed(self, at_ms: int) -> list[int]:
        """Times on the wall (seconds as if UTC, at most three) that a gap ending at this instant has swallowed."""
        stretch = stretch_at(self.zone, at_ms // 1000)
        if at_ms != stretch.start * 1000 or self.every_hour:
            return []
        return self.times_in_gap(stretch)

    def times_in_gap(self, stretch: Stretch) -> list[int]:
        """Its times on the wall, at most three, that were left out when the clock was put forward to the stretch."""
        found: list[int] = []
        end = stretch.start + stretch.offset
        local = self.wall.first(stretch.shown)
        while local is not None and local < end and len(found) < 3:
            found.append(local)
            local = self.wall.first(local + 1)
        return found

    def _low(self, stretch: Stretch) -> int:
        """Where on the wall clock a stretch begins to count.

        Who fires in every hour follows elapsed time: a repeated hour counts again, a gap is nothing. Everybody else
        follows the wall clock: what was on the wall before does not count again, and a gap is made up for.
        """
        return stretch.start + stretch.offset if self.every_hour else stretch.shown

    def _entry(self, stretch: Stretch, at_s: int) -> int:
        return self._low(stretch) if at_s == stretch.start else max(at_s + stretch.offset, self._low(stretch))


class WallTimes:
    """The times of an expression on a wall clock without a zone: seconds since 1970 as if it were UTC."""

    def __init__(self, fields: CronFields) -> None:
        self._fields = fields
        self._hours, self._minutes, self._seconds = fields.hours, fields.minutes, fields.seconds
        self._per_minute = len(fields.seconds)
        self._per_hour = self._per_minute * len(fields.minutes)
        self._per_day = self._per_hour * len(fields.hours)
        self._is_daily = len(fields.months) == 12 and all(
            len(_days(fields, 1970, month)) == monthrange(1970, month)[1] for month in range(1, 13)
        )

    def has_any(self) -> bool:
        """Whether there is any such day at all; the calendar repeats after 400 years."""
        months = sorted(self._fields.months)
        return self._is_daily or any(_days(self._fields, year, m) for year in range(2000, 2400) for m in months)

    def has_between(self, first: int, last: int) -> bool:
        """Whether there is a time of the day between two seconds of it, both included."""
        return self._rank(last) > self._rank(first - 1)

    def first(self, at: int) -> int | None:
        """The first time from `at` on; None when there is none within ten years."""
        day, second = divmod(at, _DAY_S)
        found = self._first_day(day)
        if found == day:
            rank = self._rank(second - 1)
            if rank < self._per_day:
                return day * _DAY_S + self._time(rank)
            found = self._first_day(day + 1)
        return None if found is None else found * _DAY_S + self._time(0)

    def last(self, at: int) -> int | None:
        """The last time up to `at`; None when there is none within ten years."""
        day, second = divmod(at, _DAY_S)
        found = self._last_day(day)
        if found == day:
            rank = self._rank(second)
            if rank > 0:
                return day * _DAY_S + self._time(rank - 1)
            found = self._last_day(day - 1)
        return None if found is None else found * _DAY_S + self._time(self._per_day - 1)

    def count(self, start: int, end: int) -> int:
        """How many times there are from `start` up to and including `end`."""
        if end < start:
            return 0
        (first, since), (last, until) = divmod(start, _DAY_S), divmod(end, _DAY_S)
        total = self._count_days(first, last) * self._per_day
        if self._first_day(first) == first:
            total -= self._rank(since - 1)
        if self._first_day(last) == last:
            total -= self._per_day - self._rank(until)
        return total

    def _rank(self, second: int) -> int:
        """How many times of a day there are up to and including that second of it."""
        if second < 0:
            return 0
        hour, second = divmod(second, 3600)
        minute, second = divmod(second, 60)
        i = bisect_left(self._hours, hour)
        rank = i * self._per_hour
        if i < len(self._hours) and self._hours[i] == hour:
            j = bisect_left(self._minutes, minute)
            rank += j * self._per_minute
            if j < len(self._minutes) and self._minutes[j] == minute:
                rank += bisect_right(self._seconds, second)
        return rank

    def _time(self, rank: int) -> int:
        """The second of the day of the time with that rank, counted from 0."""
        i, rank = divmod(rank, self._per_hour)
        j, k = divmod(rank, self._per_minute)
        return self._hours[i] * 3600 + self._minutes[j] * 60 + self._seconds[k]

    def _first_day(self, day: int) -> int | None:
        if self._is_daily:
            return day
        for year, month in _months(day, 1):
            days = _days(self._fields, year, month)
            if days and days[-1] >= day:
                return days[bisect_left(days, day)]
        return None

    def _last_day(self, day: int) -> int | None:
        if self._is_daily:
            return day
        for year, month in _months(day, -1):
            days = _days(self._fields, year, month)
            if days and days[0] <= day:
                return days[bisect_right(days, day) - 1]
        return None

    def _count_days(self, first: int, last: int) -> int:
        if self._is_daily:
            return last - first + 1
        total = 0
        for year, month in _months(first, 1, last):
            days = _days(self._fields, year, month)
            total += bisect_right(days, last) - bisect_left(days, first)
        return total


def _months(day: int, step: int, until: int | None = None) -> Iterator[tuple[int, int]]:
    """The months from that of `day` to that of `until`, or for ten years and a bit forwards or backwards."""
    on = date.fromordinal(_EPOCH + day)
    index = on.year * 12 + on.month - 1
    end = index + 122 * step
    if until is not None:
        last = date.fromordinal(_EPOCH + until)
        end = last.year * 12 + last.month
    for one in range(index, end, step):
        yield one // 12, one % 12 + 1


@lru_cache(maxsize=16_384)
def _days(fields: CronFields, year: int, month: int) -> tuple[int, ...]:
    """The days of a month, as days since 1970."""
    if month not in fields.months:
        return ()
    weekday_of_first, length = monthrange(year, month)
    first = date(year, month, 1).toordinal() - _EPOCH
    found = []
    for number in range(1, length + 1):
        weekday = (weekday_of_first + number) % 7
        ordinal = (number - 1) // 7 + 1
        by_day = number in fields.days or (fields.last_day and number == length)
        by_weekday = (
            weekday in fields.weekdays
            or (weekday, ordinal) in fields.nth
            or (number + 7 > length and (weekday, 0) in fields.nth)
        )
        if (by_day or by_weekday) if fields.either else (by_day and by_weekday):
            found.append(first + number - 1)
    return tuple(found)


def _never(expression: str, fields: CronFields) -> str:
    day, month = fields.texts[3].upper(), fields.texts[4].upper()
    longest = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}
    most = max((longest.get(one, 31) for one in fields.months), default=31)
    return (
        f"'{expression}' never fires: the day of month field '{day}' does not come in the month '{month}', "
        f"whose last day is {most}: write L for the last day of a month"
    )
