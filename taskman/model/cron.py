"""Cron expressions over croniter, with our own rules for gaps, repeats and day fields.

croniter sees naive local times only. What it does alone differs from what people expect of cron: it fires a
daily task twice on the day the clock is put back, reads six fields with the seconds last, and joins the two day
fields by "or" even when one is a step (`*/2`).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from croniter import CroniterError, croniter

__all__ = ["Cron"]

_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELDS = ("second", "minute", "hour", "day of month", "month", "day of week")
_RANGES = {
    "second": "0-59",
    "minute": "0-59",
    "hour": "0-23",
    "day of month": "1-31 or L",
    "month": "1-12 or JAN-DEC",
    "day of week": "0-7 or SUN-SAT, such as FRI#2 or L5",
}
_HORIZON = timedelta(days=3653)


class Cron:
    """A cron expression of five fields, or six with the seconds first, or a macro such as @daily.

    Raises ValueError, with the field and the remedy, for an expression that is nonsense or never fires.
    """

    def __init__(self, expression: str, zone: ZoneInfo) -> None:
        self.expression, self.zone = expression, zone
        fields = _MACROS.get(expression.strip().lower(), expression).split()
        _check_shape(expression, fields)
        self._text = " ".join(fields)
        self._has_seconds = len(fields) == 6
        day, weekday = fields[-3], fields[-1]
        self._either_day = not (day.startswith("*") or weekday.startswith("*"))
        self._every_hour = self._expanded_hours() == 24
        if self.next(datetime.now(UTC)) is None:
            raise ValueError(f"'{expression}' does not fire within ten years: check the day and the month")

    def next(self, after: datetime) -> datetime | None:
        """The first fire time after that instant, in UTC; None when there is none within ten years."""
        step = self._next_elapsed if self._every_hour else self._next_on_the_wall
        return step(after.astimezone(UTC))

    def _next_on_the_wall(self, after: datetime) -> datetime | None:
        """Local time rules: one that does not exist fires after the gap, one that repeats fires the first time."""
        local = after.astimezone(self.zone).replace(tzinfo=None, fold=0)
        while (candidate := self._next_naive(local)) is not None:
            fire = _instant(candidate, self.zone)
            if fire > after:
                return fire
            local = candidate
        return None

    def _next_elapsed(self, after: datetime) -> datetime | None:
        """Elapsed time rules, for expressions that fire in every hour: both passes of a repeated hour fire."""
        start, inclusive = after, False
        while True:
            offset = start.astimezone(self.zone).utcoffset() or timedelta()
            naive = (start + offset).replace(tzinfo=None) - timedelta(microseconds=inclusive)
            candidate = self._next_naive(naive)
            if candidate is None:
                return None
            fire = candidate.replace(tzinfo=UTC) - offset
            if fire.astimezone(self.zone).utcoffset() == offset:
                return fire
            start, inclusive = _transition(start, fire, self.zone), True

    def _next_naive(self, local: datetime) -> datetime | None:
        try:
            steps = self._croniter(local)
            found: datetime = steps.get_next(datetime)
        except CroniterError:
            return None
        return found if found - local < _HORIZON else None

    def _croniter(self, start: datetime) -> croniter:
        return croniter(
            self._text,
            start,
            day_or=self._either_day,
            second_at_beginning=self._has_seconds,
            max_years_between_matches=11,
        )

    def _expanded_hours(self) -> int:
        try:
            expanded = self._croniter(datetime(2000, 1, 1)).expanded
        except (CroniterError, ValueError, KeyError, IndexError):
            raise ValueError(f"'{self.expression}' is no cron expression: {_blame(self._text)}") from None
        return 24 if expanded[1] == ["*"] else len(set(expanded[1]))


def _check_shape(expression: str, fields: list[str]) -> None:
    if len(expression) > 256:
        raise ValueError("a cron expression has at most 256 characters")
    if expression.strip().startswith("@") and len(fields) == 1:
        raise ValueError(f"there is no macro '{expression}': use {', '.join(sorted(_MACROS))}")
    if len(fields) not in (5, 6):
        raise ValueError(
            f"'{expression}' has {len(fields)} fields: write five (minute hour day month weekday), "
            "such as '30 2 * * 1-5', or six with the seconds first"
        )
    names = _FIELDS[6 - len(fields) :]
    for name, field in zip(names, fields, strict=True):
        if not re.fullmatch(r"[0-9A-Za-z*/,#?-]+", field) or re.search(r"(^|,)[rRhH]($|[,/(])", field):
            raise ValueError(
                f"the {name} field '{field}' is not understood: use numbers, names, *, ranges, lists, steps"
            )


def _blame(text: str) -> str:
    """Which field is wrong, found by trying each one alone."""
    fields = text.split()
    names = _FIELDS[6 - len(fields) :]
    for index, (name, field) in enumerate(zip(names, fields, strict=True)):
        alone = ["*"] * len(fields)
        alone[index] = field
        try:
            croniter.expand(" ".join(alone), second_at_beginning=len(fields) == 6)
        except (CroniterError, ValueError, KeyError, IndexError):
            return f"the {name} field '{field}' is out of range or not understood ({_RANGES[name]})"
    return "its fields do not fit together"


def _instant(local: datetime, zone: ZoneInfo) -> datetime:
    """The UTC instant of a local time: the first of two, or the end of the gap that swallows it."""
    first = local.replace(tzinfo=zone, fold=0)
    instant = first.astimezone(UTC)
    if instant.astimezone(zone).replace(tzinfo=None) == local:
        return instant
    before, after = instant - timedelta(days=1), instant + timedelta(days=1)
    return _transition(before, after, zone)


def _transition(low: datetime, high: datetime, zone: ZoneInfo) -> datetime:
    """The first instant after `low` and up to `high` that has another offset than `low`, to the second."""
    offset = low.astimezone(zone).utcoffset()
    bottom, top = int(low.timestamp()), int(high.timestamp())
    while top - bottom > 1:
        middle = (bottom + top) // 2
        if datetime.fromtimestamp(middle, UTC).astimezone(zone).utcoffset() == offset:
            bottom = middle
        else:
            top = middle
    return datetime.fromtimestamp(top, UTC)
