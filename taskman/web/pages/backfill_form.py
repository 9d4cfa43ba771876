"""The form of a backfill: from when to when, on whose clock, and of which schedule."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from ...model.instants import datetime_of, zone
from ...model.schedule import Schedule
from ...model.task import Task
from ..forms import Field, Form
from ..interventions import BackfillRequest

__all__ = ["BackfillForm"]

_ALL = "all"


class BackfillForm(Form):
    """A stretch of the past; at first from the beginning of yesterday until now."""

    def __init__(self, task: Task, default_timezone: str, now_ms: int) -> None:
        timed = [(number, one) for number, one in enumerate(task.definition.schedules) if one.is_timed]
        self.timezone = _common_timezone([one for _, one in timed], default_timezone)
        self.is_possible = bool(timed)
        super().__init__(span=self._span(now_ms), which=[_which(timed)] if len(timed) > 1 else [])

    def _span(self, now_ms: int) -> list[Field]:
        now = datetime_of(now_ms).astimezone(zone(self.timezone)).replace(tzinfo=None)
        yesterday = now.replace(hour=0, minute=0) - timedelta(days=1)
        span = [
            Field("from", "From", "moment", required=True, timezone=self.timezone, help="the first instant"),
            Field("to", "To", "moment", required=True, timezone=self.timezone, help="the last one, at most now"),
        ]
        for one, moment in zip(span, (yesterday, now), strict=True):
            one.value = moment.strftime("%Y-%m-%dT%H:%M")
        return span

    def request(self) -> dict[str, Any]:
        """The body for the API. Raises InvalidInput with all faults at once."""
        return self.body(BackfillRequest, lambda params: None)


def _common_timezone(schedules: Sequence[Schedule], default: str) -> str:
    """The zone that all the schedules have, else the default."""
    zones = {one.timezone or default for one in schedules}
    return zones.pop() if len(zones) == 1 else default


def _which(timed: Sequence[tuple[int, Schedule]]) -> Field:
    choices = [(_ALL, "All of them"), *((str(number), one.describe()) for number, one in timed)]
    values = {str(number): number for number, _ in timed}
    return Field("schedule", "Schedule", "choice", choices=choices, values=values, value=_ALL, preset=_ALL)
