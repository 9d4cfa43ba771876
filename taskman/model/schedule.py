"""Schedules: when a task is due. Pure: every function is given the instants it works on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .cron import Cron
from .instants import datetime_of, format_instant, zone
from .validation import Duration, Instant

__all__ = ["Schedule"]

# a due instant this recent is merely late, not missed: a busy server must not swallow one
LATE_MS = 10_000
_INSTANTS = frozenset({"at", "anchor", "start", "end"})


class Schedule(BaseModel):
    """One trigger of a task: exactly one of `cron`, `every` and `at`."""

    model_config = ConfigDict(extra="forbid")

    cron: str | None = Field(None, description="five fields, six with the seconds first, or a macro such as @daily")
    every: Duration | None = Field(None, description="a period, counted from the anchor")
    at: Instant | None = Field(None, description="one instant")
    timezone: str | None = Field(None, description="IANA zone of the cron fields")
    anchor: Instant | None = Field(None, description="where the period starts; default: when it was saved")
    start: Instant | None = Field(None, description="never due before")
    end: Instant | None = Field(None, description="never due after")

    @field_validator("cron")
    @classmethod
    def _check_cron(cls, cron: str | None) -> str | None:
        if cron is not None:
            _cron(cron, "UTC")
        return cron

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, timezone: str | None) -> str | None:
        if timezone is not None:
            zone(timezone)
        return timezone

    @field_validator("every")
    @classmethod
    def _check_every(cls, every: float | None) -> float | None:
        if every is not None and every < 1:
            raise ValueError("must be at least 1s")
        return every

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if sum(kind is not None for kind in (self.cron, self.every, self.at)) != 1:
            raise ValueError("give exactly one of 'cron', 'every' and 'at'")
        if self.start is not None and self.end is not None and self.end < self.start:
            raise ValueError("'end' is before 'start'")
        return self

    def to_json(self) -> dict[str, Any]:
        """As people send it: what is set, with instants as RFC 3339."""
        shown = self.model_dump(exclude_none=True)
        return {name: format_instant(value) if name in _INSTANTS else value for name, value in shown.items()}

    def settled(self, timezone: str, now_ms: int) -> Schedule:
        """This schedule with what it left open said explicitly, so that no later default can move it."""
        changes: dict[str, Any] = {"timezone": self.timezone or timezone}
        if self.every is not None and self.anchor is None:
            changes["anchor"] = now_ms
        return self.model_copy(update=changes)

    def next(self, after_ms: int) -> int | None:
        """The first due instant after `after_ms`, epoch ms; None when there is none."""
        after = max(after_ms, (self.start or 0) - 1)
        due = self._next_unbounded(after)
        return None if due is None or (self.end is not None and due > self.end) else due

    def _next_unbounded(self, after_ms: int) -> int | None:
        if self.at is not None:
            return self.at if self.at > after_ms else None
        if self.every is not None:
            period, anchor = round(self.every * 1000), self.anchor or 0
            return anchor + max(1, (after_ms - anchor) // period + 1) * period
        return self._cron.next(after_ms)

    @property
    def _cron(self) -> Cron:
        return _cron(self.cron or "", self.timezone or "UTC")

    def upcoming(self, after_ms: int, count: int) -> Iterator[int]:
        """The next `count` due instants."""
        due = self.next(after_ms)
        while due is not None and count > 0:
            yield due
            due, count = self.next(due), count - 1

    def latest(self, first_due_ms: int, now_ms: int) -> int:
        """The last due instant up to now, given that `first_due_ms` is one; costs the same for a year as a day."""
        found = self.previous(now_ms)
        return first_due_ms if found is None or found < first_due_ms else found

    def previous(self, at_ms: int) -> int | None:
        """The last due instant up to and including `at_ms`, epoch ms; None when there is none."""
        at = at_ms if self.end is None else min(at_ms, self.end)
        found = self._previous_unbounded(at)
        return None if found is None or found < (self.start or found) else found

    def _previous_unbounded(self, at_ms: int) -> int | None:
        if self.at is not None:
            return self.at if self.at <= at_ms else None
        if self.every is not None:
            period, anchor = round(self.every * 1000), self.anchor or 0
            passed = (at_ms - anchor) // period
            return anchor + passed * period if passed >= 1 else None
        return self._cron.previous(at_ms)

    def count(self, after_ms: int, until_ms: int) -> int:
        """How many due instants there are after one instant, up to and including another."""
        first, last = max(after_ms, (self.start or 0) - 1), until_ms if self.end is None else min(until_ms, self.end)
        if last <= first:
            return 0
        if self.at is not None:
            return int(first < self.at <= last)
        if self.every is not None:
            period, anchor = round(self.every * 1000), self.anchor or 0
            return max(0, (last - anchor) // period) - max(0, (first - anchor) // period)
        return self._cron.count(first, last)

    def is_missed(self, due_ms: int, now_ms: int) -> bool:
        """Whether nobody was there when it was due, rather than somebody being a little late."""
        return due_ms < now_ms - LATE_MS

    def describe(self) -> str:
        """A short text for tables: `30 2 * * * Europe/Berlin`, `every 10m`, `at 2026-12-01T09:00:00Z`."""
        if self.cron is not None:
            return f"{self.cron} {self.timezone or ''}".strip()
        if self.every is not None:
            return f"every {_compact(self.every)}"
        return f"at {datetime_of(self.at or 0).isoformat().replace('+00:00', 'Z')}"


@lru_cache(maxsize=50_000)
def _cron(expression: str, timezone: str) -> Cron:
    return Cron(expression, zone(timezone))


def _compact(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds % size == 0:
            return f"{seconds // size:.0f}{unit}"
    return f"{seconds:g}s"
