"""What becomes of due instants when somebody looks: which fire, which were missed, which may not fire. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from .schedule import LATE_MS, Schedule

__all__ = ["DuePlan", "Span", "plan_due"]


@dataclass(frozen=True, slots=True)
class Span:
    """Due instants one after another with the same outcome, from the first to the last of them (epoch ms).

    A span that has `fired` is one instant; `skipped` is for the reason `calendar`, unless it says another.
    """

    outcome: Literal["fired", "missed", "skipped"]
    first_ms: int
    last_ms: int
    count: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class DuePlan:
    """The outcome of every due instant up to now, in order; and the next due instant, the new cursor."""

    spans: tuple[Span, ...]
    next_ms: int | None

    @property
    def fires(self) -> tuple[int, ...]:
        """The instants that fire, in order."""
        return tuple(span.first_ms for span in self.spans if span.outcome == "fired")

    @property
    def missed(self) -> Span | None:
        """What nobody was there for and is not caught up on: always one span, the first."""
        return next((span for span in self.spans if span.outcome == "missed"), None)


def plan_due(schedule: Schedule, cursor_ms: int, now_ms: int, *, fired: int = 0) -> DuePlan:
    """What to do with the due instants from `cursor_ms`, which is one, up to `now_ms`.

    An instant at most LATE_MS old is late and not missed: it fires. Of older ones fire, within the catch-up window:
    with `last` the newest instant alone, for all that came before it, and late ones are no exception; with `all` the
    newest `catchup_max`; with `skip` none. Instants outside the opening hours never fire and take nobody's place.
    `fired` is how many runs the schedule has had, for `max_runs`: once they are used up, nothing is due any more.
    Costs a few steps for each instant that fires and for each stretch of closed time within the window, whatever the
    number of instants.
    """
    if cursor_ms > now_ms:
        return DuePlan((), cursor_ms)
    left = None if schedule.max_runs is None else schedule.max_runs - fired
    if left is not None and left <= 0:
        return DuePlan((), None)
    last = schedule.latest(cursor_ms, now_ms)
    floor = max(cursor_ms, _floor(schedule, cursor_ms, now_ms))
    fires = _chosen(schedule, floor, last, cursor_ms, now_ms)
    is_over = left is not None and len(fires) >= left
    if is_over:
        fires = fires[:left]
        last = fires[-1]
    return DuePlan(tuple(_spans(schedule, cursor_ms, floor, last, fires)), None if is_over else schedule.next(last))


def _floor(schedule: Schedule, cursor_ms: int, now_ms: int) -> int:
    """Before which instant nothing fires."""
    late_ms = now_ms - LATE_MS
    if not schedule.is_missed(cursor_ms, now_ms) or schedule.catchup == "skip":
        return late_ms
    return min(late_ms, now_ms - round(schedule.catchup_window * 1000))


def _chosen(schedule: Schedule, floor: int, last: int, cursor_ms: int, now_ms: int) -> list[int]:
    """The instants that fire, in order: from the newest backwards, as many as the policy lets."""
    found: list[int] = []
    missed, at = 0, last
    is_late_only = not schedule.is_missed(cursor_ms, now_ms)
    while (due := _last_open(schedule, at, floor)) is not None:
        if schedule.is_missed(due, now_ms):
            missed += 1
        if schedule.catchup == "all" and missed > schedule.catchup_max:
            break
        found.append(due)
        if schedule.catchup == "last" and not is_late_only:
            break
        at = due - 1
    return found[::-1]


def _last_open(schedule: Schedule, at_ms: int, floor: int) -> int | None:
    """The last instant from `floor` to `at_ms` at which the schedule may fire."""
    while (due := schedule.previous(at_ms)) is not None and due >= floor:
        closed_since = schedule.opening.closed_since(due)
        if closed_since is None:
            return due
        at_ms = closed_since - 1
    return None


def _spans(schedule: Schedule, cursor_ms: int, floor: int, last: int, fires: list[int]) -> list[Span]:
    """Every instant from the cursor to `last`, in spans: before the first that fires, and between those that do."""
    ahead = fires[0] - 1 if fires else last
    skipped_from = _closed_from(schedule, ahead, floor)
    spans = [
        _span(schedule, "missed", cursor_ms - 1, skipped_from - 1),
        _span(schedule, "skipped", skipped_from - 1, ahead),
    ]
    for fire, until in pairwise([*fires, last + 1] if fires else []):
        spans += [Span("fired", fire, fire, 1), _span(schedule, "skipped", fire, until - 1)]
    return [span for span in spans if span is not None]


def _closed_from(schedule: Schedule, at_ms: int, floor: int) -> int:
    """From when on every instant up to `at_ms` is closed; not looked for before `floor`."""
    since = at_ms + 1
    while (due := schedule.previous(since - 1)) is not None and due >= floor:
        closed_since = schedule.opening.closed_since(due)
        if closed_since is None:
            break
        since = max(floor, closed_since)
    return since


def _span(schedule: Schedule, outcome: Literal["missed", "skipped"], after_ms: int, until_ms: int) -> Span | None:
    """The instants after one instant up to another; None when there are none."""
    first, last = schedule.next(after_ms), schedule.previous(until_ms)
    if first is None or last is None or first > last:
        return None
    return Span(outcome, first, last, schedule.count(after_ms, until_ms))
