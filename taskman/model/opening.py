"""When a schedule may fire: its window of the day, and the dates and times that it leaves out."""

from __future__ import annotations

import re
from bisect import bisect_right
from datetime import date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from .icalendar import is_icalendar, read_icalendar
from .instants import zone
from .walltime import stretch_at

__all__ = ["MAX_EXCLUSIONS", "Opening", "check_window", "opening", "read_exclusions"]

MAX_EXCLUSIONS = 1000
_DAY_S = 86_400
_WINDOW = re.compile(r"(\d{1,2}):(\d\d)-(\d{1,2}):(\d\d)")
_EXAMPLE = "write a date such as 2026-12-25, a range such as 2026-12-24/2027-01-01, or the text of an .ics file"


def check_window(text: str) -> str:
    """The window, with two digits each: `22:00-06:00`. Raises ValueError with the remedy."""
    opens, closes = _window(text)
    return f"{_clock(opens)}-{_clock(closes)}"


def _window(text: str) -> tuple[int, int]:
    """The seconds of the day at which it opens and closes."""
    found = _WINDOW.fullmatch(text.replace(" ", "").replace("–", "-"))
    if found is None:
        raise ValueError(f"'{text}' is no window: write two times of the day as 22:00-06:00")
    hour, minute, to_hour, to_minute = map(int, found.groups())
    opens, closes = hour * 3600 + minute * 60, to_hour * 3600 + to_minute * 60
    if max(minute, to_minute) > 59 or opens >= _DAY_S or closes > _DAY_S:
        raise ValueError(f"'{text}' is no window: a day goes from 00:00 to 24:00")
    if opens == closes % _DAY_S:
        raise ValueError(f"'{text}' opens and closes at once: leave it away for the whole day")
    return opens, closes


def _clock(second: int) -> str:
    return f"{second // 3600:02}:{second // 60 % 60:02}"


def read_exclusions(value: object) -> list[str]:
    """Dates, ranges and calendars as a plain list of dates and ranges. Raises ValueError with the remedy."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(one, str) for one in items):
        raise ValueError(f"takes a list of texts: {_EXAMPLE}")
    found = [entry for item in items for entry in (read_icalendar(item) if is_icalendar(item) else [item.strip()])]
    if len(found) > MAX_EXCLUSIONS:
        raise ValueError(f"{len(found)} dates are too many: at most {MAX_EXCLUSIONS}")
    for entry in found:
        _closing(entry, ZoneInfo("UTC"))
    return list(dict.fromkeys(found))


def _closing(entry: str, where: ZoneInfo) -> tuple[int, int]:
    """From when until before when (epoch ms) an entry is closed."""
    first, slash, last = (part.strip() for part in entry.replace("..", "/").partition("/"))
    try:
        start, end = _moment(first), _moment(last if slash else first)
    except ValueError:
        raise ValueError(f"'{entry}' is no date: {_EXAMPLE}") from None
    if isinstance(start, datetime) is not isinstance(end, datetime) or (isinstance(start, datetime) and not slash):
        raise ValueError(f"'{entry}' needs two dates, or two times such as 2026-12-24T12:00/2026-12-24T18:00")
    if not isinstance(end, datetime):
        end += timedelta(days=1)
    start_ms, end_ms = _instant(start, where), _instant(end, where)
    if end_ms < start_ms or (not isinstance(start, datetime) and end_ms == start_ms):
        raise ValueError(f"'{entry}' ends before it begins")
    return start_ms, end_ms


def _moment(text: str) -> date | datetime:
    return datetime.fromisoformat(text) if "T" in text or " " in text else date.fromisoformat(text)


def _instant(moment: date | datetime, where: ZoneInfo) -> int:
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)
    try:
        return round((moment if moment.tzinfo else moment.replace(tzinfo=where)).timestamp() * 1000)
    except OverflowError:
        raise ValueError(f"{moment} is too far away") from None


class Opening:
    """Says of an instant whether a schedule may fire then, by what the wall clock of its zone shows at that instant."""

    def __init__(self, window: str | None, exclusions: tuple[str, ...], where: ZoneInfo) -> None:
        self.window, self._zone = window, where
        self._hours = _window(window) if window else (0, _DAY_S)
        self._closings = _merged(sorted(_closing(entry, where) for entry in exclusions))
        self._starts = [start for start, _ in self._closings]

    def closed_since(self, at_ms: int) -> int | None:
        """None when it is open at that instant; else an instant from which on it is closed until that one at least."""
        excluded = self.excluded_since(at_ms)
        return self._outside_since(at_ms) if excluded is None else excluded

    def excluded_since(self, at_ms: int) -> int | None:
        """Like closed_since, by the dates alone."""
        index = bisect_right(self._starts, at_ms) - 1
        return self._starts[index] if index >= 0 and at_ms < self._closings[index][1] else None

    def closed_until(self, at_ms: int) -> int | None:
        """None when it is open at that instant; else a later instant until which it stays closed."""
        index = bisect_right(self._starts, at_ms) - 1
        if index >= 0 and at_ms < self._closings[index][1]:
            return self._closings[index][1]
        return self._outside_until(at_ms)

    def _outside_until(self, at_ms: int) -> int | None:
        if self.window is None or self._outside_since(at_ms) is None:
            return None
        opens = self._hours[0]
        stretch = stretch_at(self._zone, at_ms // 1000)
        day, second = divmod(at_ms // 1000 + stretch.offset, _DAY_S)
        opened = (day if second < opens else day + 1) * _DAY_S + opens
        return min(opened - stretch.offset, stretch.end) * 1000

    def _outside_since(self, at_ms: int) -> int | None:
        if self.window is None:
            return None
        opens, closes = self._hours
        stretch = stretch_at(self._zone, at_ms // 1000)
        day, second = divmod(at_ms // 1000 + stretch.offset, _DAY_S)
        inside = opens <= second < closes if opens < closes else second >= opens or second < closes
        if inside:
            return None
        closed = (day if second >= closes else day - 1) * _DAY_S + closes
        return max(closed - stretch.offset, stretch.start) * 1000

    def seconds_of_day(self) -> list[tuple[int, int]]:
        """The window as ranges of seconds of a day, from and to, both included."""
        opens, closes = self._hours
        return [(opens, closes - 1)] if opens < closes else [(0, closes - 1), (opens, _DAY_S - 1)]


def _merged(closings: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in closings:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


@lru_cache(maxsize=10_000)
def opening(window: str | None, exclusions: tuple[str, ...], timezone: str) -> Opening:
    """The opening hours of a schedule, made once for each text."""
    return Opening(window, exclusions, zone(timezone))
