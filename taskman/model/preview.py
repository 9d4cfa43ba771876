"""What a schedule will do, told before it does: its next due instants, each with what is strange about it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .cron import Cron
from .instants import datetime_of, format_duration, format_instant, zone
from .inwords import in_words, listed, ordinal
from .schedule import Schedule
from .walltime import Stretch, stretch_at

__all__ = ["Coming", "Preview", "Surroundings", "coming", "preview"]

_YEAR_MS = 366 * 86_400_000
_MOST_WARNINGS = 6


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What else there is: the task (for its jitter), how long it usually takes, and the schedules of other tasks, each
    with how many there are that are due as it is.

    `others_are_all`: whether no other schedule has been left out.
    """

    task: str | None = None
    usual_s: float | None = None
    others: Sequence[tuple[Schedule, int]] = ()
    others_are_all: bool = True


@dataclass(frozen=True, slots=True)
class Coming:
    """A due instant that is to come, on the wall clock of its schedule, with notes about it.

    `is_skipped`: it will not fire, being outside the window or excluded.
    """

    at_ms: int
    local: datetime
    notes: tuple[str, ...] = ()
    is_skipped: bool = False

    def to_json(self) -> dict[str, Any]:
        """As the API shows it: `at` in UTC, `local` with the offset of the schedule's zone."""
        local = self.local.isoformat(timespec="milliseconds" if self.local.microsecond else "seconds")
        return {"at": format_instant(self.at_ms), "local": local, "notes": list(self.notes)}


@dataclass(frozen=True, slots=True)
class Preview:
    """A schedule in words, its next due instants, and what somebody should know before saving it."""

    text: str
    items: list[Coming] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {"text": self.text, "items": [one.to_json() for one in self.items], "warnings": self.warnings}


def preview(schedule: Schedule, after_ms: int, count: int, around: Surroundings | None = None) -> Preview:
    """The next `count` due instants after `after_ms`; none when it is never due again, or the clock does not say."""
    most = count if schedule.max_runs is None else min(count, schedule.max_runs)
    items = coming(schedule, after_ms, most, around)
    return Preview(in_words(schedule), items, _warnings(schedule, after_ms, items)[:_MOST_WARNINGS])


def coming(schedule: Schedule, after_ms: int, count: int, around: Surroundings | None = None) -> list[Coming]:
    """The next `count` due instants, each with its notes."""
    found: list[Coming] = []
    before = None  # the last one that fires
    where = zone(schedule.timezone or "UTC")
    for at_ms in schedule.upcoming(after_ms, count):
        closed = _closed_note(schedule, at_ms)
        notes = [*_clock_notes(schedule, at_ms), *([closed] if closed else _run_notes(schedule, at_ms, before, around))]
        found.append(Coming(at_ms, datetime_of(at_ms).astimezone(where), tuple(notes), closed is not None))
        before = before if closed else at_ms
    return found


def _closed_note(schedule: Schedule, at_ms: int) -> str | None:
    if schedule.opening.excluded_since(at_ms) is not None:
        return "excluded: skipped"
    if schedule.opening.closed_since(at_ms) is not None:
        return f"outside the window {schedule.window}: skipped"
    return None


def _run_notes(schedule: Schedule, at_ms: int, before: int | None, around: Surroundings | None) -> list[str]:
    if around is None:
        return []
    notes = []
    if around.task and (later := schedule.jitter_ms(around.task, at_ms)):
        notes.append(f"starts {format_duration(later / 1000)} later (jitter)")
    if around.usual_s and before is not None and at_ms - before < around.usual_s * 1000:
        notes.append(f"would overlap: usually takes {format_duration(around.usual_s)}")
    if count := sum(number for one, number in around.others if one.next(at_ms - 1) == at_ms):
        others = f"{count} other{'s' if count > 1 else ''}"
        notes.append(f"collides with {others if around.others_are_all else f'at least {others}'}")
    return notes


def _clock_notes(schedule: Schedule, at_ms: int) -> list[str]:
    """What a changed clock does to a due instant of a cron expression."""
    cron = schedule.cron_rule
    if cron is None:
        return []
    stretch = stretch_at(cron.zone, at_ms // 1000)
    local = at_ms // 1000 + stretch.offset
    notes = []
    if swallowed := cron.swallowed(at_ms):
        notes.append(f"{_missing(swallowed)} that day: runs {_clock(local)}")
    elif cron.every_hour and (lost := _left_out(cron, at_ms, stretch)):
        notes.append(f"{_missing(lost)} that day")
    moment = datetime.fromtimestamp(at_ms / 1000, cron.zone)
    if moment.replace(fold=0).utcoffset() != moment.replace(fold=1).utcoffset():
        notes.append(f"{_clock(local)} comes twice: runs {'both times' if cron.every_hour else 'once'}")
    return notes


def _left_out(cron: Cron, at_ms: int, stretch: Stretch) -> list[int]:
    """The times that a gap between this fire time and the one before has swallowed for good."""
    before = cron.previous(at_ms - 1)
    if before is None or before >= stretch.start * 1000:
        return []
    lost = cron.times_in_gap(stretch)
    return lost if len(lost) < 3 else []


def _missing(times: Sequence[int]) -> str:
    clocks = [_clock(one) for one in times]
    return f"{listed(clocks)} {'does' if len(clocks) == 1 else 'do'} not exist"


def _clock(local_s: int) -> str:
    moment = datetime.fromtimestamp(local_s, UTC)
    return moment.strftime("%H:%M:%S" if moment.second else "%H:%M")


def _warnings(schedule: Schedule, after_ms: int, items: Sequence[Coming]) -> list[str]:
    cron = schedule.cron_rule
    found = []
    if schedule.is_timed and items and all(one.is_skipped for one in items):
        found.append("all of the next ones are skipped: look at the window and the excluded dates")
    if cron is None:
        return found
    changes = [] if cron.every_hour else _changes(schedule, cron, after_ms, items)  # elapsed time just goes on
    return [*found, *_mistakes(cron), *changes]


def _mistakes(cron: Cron) -> list[str]:
    """What people write when they mean something else."""
    second, minute, hour, day, month, weekday = cron.fields.texts
    found = []
    if second == "*" and minute != "*":
        found.append("the first of six fields is the second: it fires every second; write 0 there for once a minute")
    elif second == "0" and minute == "*" and len(cron.fields.hours) < 24:
        once = f"0 {hour} {day} {month} {weekday}".upper()
        found.append(f"it fires every minute of these hours: for once an hour write '{once}'")
    for name, text, size in (("second", second, 60), ("minute", minute, 60), ("hour", hour, 24)):
        star, _, step = text.partition("/")
        if star == "*" and step and size % int(step):
            found.append(f"{text} counts anew at {name} 0: the last step is {size % int(step)} {name}s, not {step}")
    days = cron.fields.days
    if len(cron.fields.months) > 1 and min(days, default=0) > 28 and not cron.fields.either:
        found.append(f"shorter months have no {ordinal(min(days))}: write L for the last day of each month")
    return found


def _changes(schedule: Schedule, cron: Cron, after_ms: int, items: Sequence[Coming]) -> list[str]:
    """What the changes of the clock within a year will do to it, beyond what the items say already."""
    found: list[str] = []
    shown = {one.at_ms for one in items if one.notes}
    at = after_ms // 1000
    while at * 1000 < after_ms + _YEAR_MS and len(found) < 2:
        stretch = stretch_at(cron.zone, at)
        at = stretch.end
        if stretch.start * 1000 <= after_ms:
            continue
        shown_again = stretch.shown - stretch.start - stretch.offset
        first = cron.next(stretch.start * 1000 - 1 - max(0, shown_again) * 1000)
        if shown_again == 0 or first is None or first in shown or first >= (stretch.start + abs(shown_again)) * 1000:
            continue
        if schedule.next(first - 1) == first and (notes := _clock_notes(schedule, first)):
            day = datetime.fromtimestamp(first / 1000, cron.zone).strftime("%-d %B %Y")
            found.append(f"{day}: {notes[0]}")
    return found
