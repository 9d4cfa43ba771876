"""A look at what is due: the preview of a schedule as it is typed, the same on every page that has one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import InvalidInput
from ...model.preview import Coming, Preview, Surroundings, preview
from ...model.schedule import Schedule
from ...model.validation import validate
from .wording import local, relative

__all__ = ["Look", "look"]


@dataclass(frozen=True, slots=True)
class Look:
    """The preview of a schedule, or what is wrong with it; neither while there is nothing to look at."""

    timezone: str = "UTC"
    preview: Preview | None = None
    fault: str = ""
    now_ms: int = 0

    def when(self, one: Coming) -> str:
        """The due instant on the wall clock of the schedule."""
        return local(one.at_ms, self.timezone)

    def utc(self, one: Coming) -> str:
        """The due instant in UTC, with its date only where the schedule's clock shows another one."""
        text = local(one.at_ms, "UTC")
        return text if text.partition(",")[0] != self.when(one).partition(",")[0] else text.partition(", ")[2]

    def ahead(self, one: Coming) -> str:
        """How far away it is."""
        return relative(one.at_ms, self.now_ms)


def look(
    fields: Mapping[str, Any],
    timezone: str,
    now_ms: int,
    *,
    count: int,
    since_ms: int | None = None,
    around: Surroundings | None = None,
) -> Look:
    """What a schedule, as it was typed, will do from `since_ms` (now) on; or the first thing that is wrong with it."""
    try:
        schedule = validate(Schedule, fields)
    except InvalidInput as error:
        return Look(timezone, fault=error.faults[0].detail)
    since = now_ms if since_ms is None else since_ms
    found = preview(schedule.settled(timezone, since), since, count, around)
    if schedule.is_timed and not found.items:
        return Look(timezone, fault="It is never due again, or not within ten years.")
    return Look(schedule.timezone or timezone, found, now_ms=now_ms)
