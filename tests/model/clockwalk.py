"""Fire times found the slow way: walk along the clock, look at the wall, and ask of every time whether it matches.

Written from the rules in docs/schedules.md and not from the code: it knows no field arithmetic and no stretches, and it
reads the fields by itself.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

__all__ = ["changes", "fires", "zones"]

NAMES = {name.lower(): number for number, name in enumerate(calendar.month_abbr) if name}
DAYS = {name.lower(): (number + 1) % 7 for number, name in enumerate(calendar.day_abbr)}
LIMITS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def fires(expression: str, zone: ZoneInfo, start: datetime, end: datetime) -> list[int]:
    """Every fire time (epoch ms) after `start`, up to and including `end`; both in UTC, whole minutes."""
    return list(_walk(expression, zone, start, end))


def _walk(expression: str, zone: ZoneInfo, start: datetime, end: datetime) -> Iterator[int]:
    fields = expression.lower().split()
    step = timedelta(seconds=1) if len(fields) == 6 else timedelta(minutes=1)
    sets = [_numbers(text, *limit) for text, limit in zip(["0"] * (6 - len(fields)) + fields, LIMITS, strict=True)]
    every_hour = sets[2] >= set(range(24))
    now = start - timedelta(hours=3)  # the wall clock may have been further than it is at the start
    shown = _wall(now, zone)
    while now < end:
        now += step
        wall = _wall(now, zone)
        if every_hour:
            passed = [wall]
        elif wall == shown + step:
            passed, shown = [wall], wall
        else:
            passed = [shown + step * n for n in range(1, (wall - shown) // step + 1)] if wall > shown else []
            shown = max(shown, wall)
        if now > start and any(_matches(one, fields, sets) for one in passed):
            yield int(now.timestamp()) * 1000


def _wall(now: datetime, zone: ZoneInfo) -> datetime:
    return now.astimezone(zone).replace(tzinfo=None, fold=0)


def _matches(wall: datetime, fields: list[str], sets: list[set[int]]) -> bool:
    seconds, minutes, hours, _, months, _ = sets
    if wall.second not in seconds or wall.minute not in minutes or wall.hour not in hours or wall.month not in months:
        return False
    by_day = _day_matches(wall, fields[-3], sets[3])
    by_weekday = _weekday_matches(wall, fields[-1], sets[5])
    if fields[-3].startswith("*") or fields[-1].startswith("*"):
        return by_day and by_weekday
    return by_day or by_weekday


def _day_matches(wall: datetime, text: str, numbers: set[int]) -> bool:
    is_last = (wall + timedelta(days=1)).month != wall.month
    return wall.day in numbers or ("l" in text.split(",") and is_last)


def _weekday_matches(wall: datetime, text: str, numbers: set[int]) -> bool:
    weekday = wall.isoweekday() % 7
    for part in text.split(","):
        found = re.fullmatch(r"(\w+)#(\d)|l(\w+)", part)
        if found and weekday == _number(found[1] or found[3]) % 7:
            is_last = (wall + timedelta(days=7)).month != wall.month
            if is_last if found[3] else (wall.day - 1) // 7 + 1 == int(found[2]):
                return True
    return bool(numbers & ({weekday, 7} if weekday == 0 else {weekday}))


def _number(word: str) -> int:
    return {**NAMES, **DAYS}[word] if word.isalpha() else int(word)


def _numbers(text: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        if part == "l" or "#" in part or re.fullmatch(r"l\w+", part):
            continue
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        if first == "*":
            first, last = str(low), str(high)
        elif not last:
            last = str(high) if step else first
        begin, end = _number(first), _number(last)
        around = [*range(begin, high + 1), *range(low, end + 1)] if begin > end else range(begin, end + 1)
        found |= set(around[:: int(step or 1)])
    return found


@cache
def zones() -> list[str]:
    """Every zone there is."""
    return sorted(name for name in available_timezones() if not name.startswith(("posix/", "right/", "localtime")))


@cache
def changes(name: str, first_year: int, last_year: int) -> tuple[datetime, ...]:
    """The instants (UTC, whole minutes) at which a clock is changed, looked for in steps of five minutes to an hour."""
    zone, found = ZoneInfo(name), []
    now, end = datetime(first_year, 1, 1, tzinfo=UTC), datetime(last_year + 1, 1, 1, tzinfo=UTC)
    while now < end:
        later = now + timedelta(hours=1)
        if later.astimezone(zone).utcoffset() != now.astimezone(zone).utcoffset():
            while now.astimezone(zone).utcoffset() != later.astimezone(zone).utcoffset():
                now += timedelta(minutes=5)
            found.append(now)
        now = later
    return tuple(found)
