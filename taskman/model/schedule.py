"""Schedules: when a task is due. Pure: every function is given the instants it works on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from .chain import Upstream
from .cron import Cron
from .instants import datetime_of, format_instant, zone
from .opening import Opening, check_window, opening, read_exclusions
from .validation import Duration, Instant

__all__ = ["DEFAULT_CATCHUP_WINDOW_S", "Catchup", "Schedule"]

# a due instant this recent is merely late, not missed: a busy server must not swallow one
LATE_MS = 10_000
DEFAULT_CATCHUP_WINDOW_S = 3600.0
MAX_CATCHUP = 1000
Catchup = Literal["last", "all", "skip"]

# so many stretches of closed time are looked over at once for the next instant that fires
_CLOSINGS = 2000

_INSTANTS = frozenset({"at", "anchor", "start", "end"})
_KINDS = ("cron", "every", "at", "after")


# the tag of the branch keeps pydantic from complaining of the other one as well
_After = Annotated[
    Annotated[list[Upstream], Tag("|tasks")] | Annotated[Duration, Tag("|delay")],
    Discriminator(lambda value: "|tasks" if isinstance(value, list) else "|delay"),
]


class Schedule(BaseModel):
    """One trigger of a task: exactly one of `cron`, `every`, `at` and `after`."""

    model_config = ConfigDict(extra="forbid")

    cron: str | None = Field(None, description="five fields, six with the seconds first, or a macro such as @daily")
    every: Duration | None = Field(None, description="a period, counted from the anchor")
    at: Instant | None = Field(None, description="one instant")
    after: _After | None = Field(
        None, description="a delay after its own last run ended; or other tasks, and how they must have ended"
    )
    timezone: str | None = Field(None, description="IANA zone of the cron fields, the window and the excluded dates")
    anchor: Instant | None = Field(None, description="where the period starts; default: when it was saved")
    start: Instant | None = Field(None, description="never due before")
    end: Instant | None = Field(None, description="never due after")
    max_runs: int | None = Field(None, ge=1, description="so many runs, and then never again")
    jitter: Duration | None = Field(
        None, description="starts up to so much later, by how much being fixed for each due"
    )
    catchup: Catchup = Field("last", description="what to run of the dues that nobody was there for")
    catchup_window: Duration = Field(DEFAULT_CATCHUP_WINDOW_S, description="nothing older is caught up on")
    catchup_max: int = Field(10, ge=1, le=MAX_CATCHUP, description="how many are caught up on, the newest, with 'all'")
    params: dict[str, Any] = Field(default_factory=dict, description="merged over the task's")
    exclude: Annotated[list[str], BeforeValidator(read_exclusions, json_schema_input_type=list[str] | str)] = Field(
        default_factory=list, description="dates, ranges of dates or times, or the text of an .ics file"
    )
    window: Annotated[str, AfterValidator(check_window)] | None = Field(
        None, description="times of the day outside which it never fires, such as 22:00-06:00"
    )

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

    @field_validator("after")
    @classmethod
    def _check_after(cls, after: list[Upstream] | float | None) -> list[Upstream] | float | None:
        if after == []:
            raise ValueError("name a task at least: [{'task': 'backup', 'on': 'success'}]")
        if isinstance(after, list) and len({one.task for one in after}) < len(after):
            raise ValueError("names a task twice: once is enough")
        return after

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if sum(getattr(self, kind) is not None for kind in _KINDS) != 1:
            raise ValueError("give exactly one of 'cron', 'every', 'at' and 'after'")
        fault = next(self._contradictions(), None)
        if fault is not None:
            raise ValueError(fault)
        return self

    def _contradictions(self) -> Iterator[str]:
        """What does not go together, each with the remedy."""
        given, kind = self.model_fields_set, self.kind
        if self.start is not None and self.end is not None and self.end < self.start:
            yield "'end' is before 'start'"
        if self.anchor is not None and not self.is_periodic:
            yield f"'anchor' is where a period starts: it goes with 'every', not with '{kind}'"
        if self.at is not None:
            yield from (f"'{name}' does not go with 'at', which is due once" for name in _NOT_AT if getattr(self, name))
        if self.at is not None and not (self.start or self.at) <= self.at <= (self.end or self.at):
            yield "'at' does not lie between 'start' and 'end': leave them away"
        if self.after is not None:
            yield from (
                f"'{name}' does not go with 'after', which cannot miss an instant" for name in _NOT_AFTER & given
            )
        if self.after is not None and self.jitter:
            yield "'jitter' does not go with 'after': write a longer delay"
        if self.every is not None and self.jitter is not None and self.jitter >= self.every:
            yield "'jitter' must be shorter than 'every'"
        if self.window is not None and not self._ever_in_window():
            yield f"no fire time of '{self.cron}' lies in the window {self.window}: it would never fire"

    def _ever_in_window(self) -> bool:
        ranges = opening(self.window, (), "UTC").seconds_of_day()
        cron = self.cron_rule
        return cron is None or any(cron.fires_between(first, last) for first, last in ranges)

    @property
    def kind(self) -> str:
        """Which of the four triggers it is."""
        return next(kind for kind in _KINDS if getattr(self, kind) is not None)

    @property
    def is_timed(self) -> bool:
        """Whether the clock alone says when it is due, so that its due instants can be told in advance."""
        return self.after is None

    @property
    def is_periodic(self) -> bool:
        """Whether it counts from an anchor: when it was saved, unless it says another."""
        return self.every is not None or isinstance(self.after, float)

    @property
    def opening(self) -> Opening:
        """When it may fire: a due instant outside is skipped, for the reason `calendar`."""
        return opening(self.window, tuple(self.exclude), self.timezone or "UTC")

    def to_json(self) -> dict[str, Any]:
        """As people send it: what differs from the defaults, with instants as RFC 3339."""
        shown = self.model_dump(exclude_none=True, exclude_defaults=True)
        return {name: format_instant(value) if name in _INSTANTS else value for name, value in shown.items()}

    def settled(self, timezone: str, now_ms: int) -> Schedule:
        """This schedule with what it left open said explicitly, so that no later default can move it."""
        changes: dict[str, Any] = {"timezone": self.timezone or timezone}
        if self.is_periodic and self.anchor is None:
            changes["anchor"] = now_ms
        return self.model_copy(update=changes)

    def next(self, after_ms: int) -> int | None:
        """The first due instant after `after_ms`, epoch ms; None when there is none, or the clock does not say."""
        after = max(after_ms, (self.start or 0) - 1)
        due = self._next_unbounded(after)
        return None if due is None or (self.end is not None and due > self.end) else due

    def _next_unbounded(self, after_ms: int) -> int | None:
        if self.at is not None:
            return self.at if self.at > after_ms else None
        if self.every is not None:
            period, anchor = round(self.every * 1000), self.anchor or 0
            return anchor + max(1, (after_ms - anchor) // period + 1) * period
        return cron.next(after_ms) if (cron := self.cron_rule) else None

    @property
    def cron_rule(self) -> Cron | None:
        """The cron expression in its zone; None for another kind."""
        return None if self.cron is None else _cron(self.cron, self.timezone or "UTC")

    def upcoming(self, after_ms: int, count: int) -> Iterator[int]:
        """The next `count` due instants."""
        due = self.next(after_ms)
        while due is not None and count > 0:
            yield due
            due, count = self.next(due), count - 1

    def next_open(self, due_ms: int) -> int:
        """The first due instant from `due_ms`, which is one, at which it may fire; else the last that was looked at."""
        for _ in range(_CLOSINGS):
            until = self.opening.closed_until(due_ms)
            following = None if until is None else self.next(until - 1)
            if following is None:
                break
            due_ms = following
        return due_ms

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
        return cron.previous(at_ms) if (cron := self.cron_rule) else None

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
        return cron.count(first, last) if (cron := self.cron_rule) else 0

    def first_due(self, now_ms: int) -> int | None:
        """When it is due first, saved now; None when the clock does not say."""
        if self.is_timed:
            return self.next(now_ms)
        due = self.due_after(None)
        return self.due_after(now_ms) if due is not None and due <= now_ms else due

    def first_open(self, at_ms: int) -> int:
        """The first instant from `at_ms` on, due or not, at which it may fire; for a delay, which can be put off."""
        for _ in range(_CLOSINGS):
            until = self.opening.closed_until(at_ms)
            if until is None:
                break
            at_ms = until
        return at_ms

    def due_after(self, completed_ms: int | None) -> int | None:
        """For a delay after completion: when it is due next, given when the task's last run ended, if any did."""
        if not isinstance(self.after, float):
            return None
        since = self.anchor or 0 if completed_ms is None else max(completed_ms, self.anchor or 0)
        due = max(since + round(self.after * 1000), self.start or 0)
        return None if self.end is not None and due > self.end else due

    def jitter_ms(self, task: str, due_ms: int) -> int:
        """How much later than `due_ms` the task's run starts: always the same, and before the next due instant."""
        if not self.jitter:
            return 0
        following = self.next(due_ms)
        most = (
            round(self.jitter * 1000) if following is None else min(round(self.jitter * 1000), following - due_ms - 1)
        )
        drawn = blake2b(f"{task}\0{self.describe()}\0{due_ms}".encode(), digest_size=8).digest()
        return int.from_bytes(drawn) * (most + 1) >> 64

    @property
    def mark(self) -> str:
        """What makes it the same schedule after its task was edited, so that `max_runs` goes on counting."""
        return blake2b(self.describe().encode(), digest_size=6).hexdigest()

    def is_missed(self, due_ms: int, now_ms: int) -> bool:
        """Whether nobody was there when it was due, rather than somebody being a little late."""
        return due_ms < now_ms - LATE_MS

    def describe(self) -> str:
        """A short text for tables: `30 2 * * * Europe/Berlin`, `every 10m`, `at 2026-12-01T09:00:00Z`."""
        if self.cron is not None:
            return f"{self.cron} {self.timezone or ''}".strip()
        if self.every is not None:
            return f"every {_compact(self.every)}"
        if isinstance(self.after, list):
            return "after " + " and ".join(one.describe() for one in self.after)
        if self.after is not None:
            return f"{_compact(self.after)} after its last run"
        return f"at {datetime_of(self.at or 0).isoformat().replace('+00:00', 'Z')}"


_NOT_AT = ("max_runs", "window", "exclude")
_NOT_AFTER = frozenset({"catchup", "catchup_window", "catchup_max"})


@lru_cache(maxsize=50_000)
def _cron(expression: str, timezone: str) -> Cron:
    return Cron(expression, zone(timezone))


def _compact(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds % size == 0 and seconds:
            return f"{seconds // size:.0f}{unit}"
    return f"{seconds:g}s"
