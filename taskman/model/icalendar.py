"""Reads the events of an iCalendar file (RFC 5545): when each begins and ends, and nothing else.

A whole library would bring recurrence rules, which nobody could check by looking at the saved task. Here the events
become plain dates and times, which the task then shows.
"""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from .instants import zone

__all__ = ["is_icalendar", "read_icalendar"]

_DURATION = re.compile(r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?")
_RECURRING = frozenset({"RRULE", "RDATE", "EXDATE", "RECURRENCE-ID"})
Moment = date | datetime


def is_icalendar(text: str) -> bool:
    """Whether this is such a file rather than a date."""
    return text.lstrip("\ufeff \r\n\t").upper().startswith("BEGIN:VCALENDAR")


def read_icalendar(text: str) -> list[str]:
    """The events as `exclude` takes them: `2026-12-25`, or `begin/end` with dates or times.

    A time with a zone gets its offset; a floating one stays on the wall clock of the schedule.
    Raises: ValueError that names the event.
    """
    found: list[str] = []
    event: dict[str, tuple[dict[str, str], str]] | None = None
    for line in _unfold(text):
        name, parameters, value = _property(line)
        if (name, value.upper()) == ("BEGIN", "VEVENT"):
            event = {}
        elif (name, value.upper()) == ("END", "VEVENT") and event is not None:
            found.append(_entry(event))
            event = None
        elif event is not None:
            event.setdefault(name, (parameters, value))
    if not found:
        raise ValueError("the calendar has no event (VEVENT)")
    return found


def _unfold(text: str) -> list[str]:
    return re.sub(r"\r?\n[ \t]", "", text.strip("\ufeff \r\n")).splitlines()


def _property(line: str) -> tuple[str, dict[str, str], str]:
    """Name, parameters and value of a line such as `DTSTART;VALUE=DATE:20261225`."""
    found = re.fullmatch(r'([\w-]+)((?:;[\w-]+=(?:"[^"]*"|[^";:]*)(?:,(?:"[^"]*"|[^";:,]*))*)*):(.*)', line, re.DOTALL)
    if found is None:
        return "", {}, ""
    parameters = re.findall(r';([\w-]+)=("[^"]*"|[^;]*)', found[2])
    return found[1].upper(), {name.upper(): value.strip('"') for name, value in parameters}, found[3].strip()


def _entry(event: dict[str, tuple[dict[str, str], str]]) -> str:
    title = event.get("SUMMARY", ({}, "without a title"))[1]
    if repeated := sorted(_RECURRING & event.keys()):
        raise ValueError(f"the event '{title}' repeats ({repeated[0]}): export the calendar with its single dates")
    if "DTSTART" not in event:
        raise ValueError(f"the event '{title}' has no DTSTART")
    try:
        start = _moment(*event["DTSTART"])
        end = (
            _moment(*event["DTEND"]) if "DTEND" in event else start + _length(start, event.get("DURATION", ({}, ""))[1])
        )
    except ValueError as error:
        raise ValueError(f"the event '{title}': {error}") from None
    if isinstance(start, datetime) is not isinstance(end, datetime):
        raise ValueError(f"the event '{title}' begins with a time and ends with a date, or the other way")
    if not isinstance(start, datetime):
        last = max(start, end - timedelta(days=1))  # the end of an event is the first day that is free again
        return start.isoformat() if last == start else f"{start.isoformat()}/{last.isoformat()}"
    return f"{start.isoformat()}/{end.isoformat()}"


def _length(start: Moment, text: str) -> timedelta:
    if not text:
        return timedelta() if isinstance(start, datetime) else timedelta(days=1)
    found = _DURATION.fullmatch(text.lstrip("+"))
    if found is None:
        raise ValueError(f"'{text}' is no DURATION")
    weeks, days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)


def _moment(parameters: dict[str, str], value: str) -> Moment:
    if re.fullmatch(r"\d{8}", value):
        return datetime.strptime(value, "%Y%m%d").date()
    if not re.fullmatch(r"\d{8}T\d{6}Z?", value):
        raise ValueError(f"'{value}' is no date or time")
    moment = datetime.strptime(value[:15], "%Y%m%dT%H%M%S")
    if value.endswith("Z"):
        return moment.replace(tzinfo=ZoneInfo("UTC"))
    return moment.replace(tzinfo=zone(parameters["TZID"])) if "TZID" in parameters else moment
