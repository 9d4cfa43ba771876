"""Instants and durations as people and programs write them.

Instants are RFC 3339 with an offset outside and epoch milliseconds inside; durations are seconds.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

__all__ = ["datetime_of", "format_duration", "format_instant", "parse_duration", "parse_instant", "zone"]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
MAX_DURATION_S = 10 * 366 * 86400.0


def parse_duration(value: object) -> float:
    """Seconds, from a number or from `90s`, `5m`, `1h30m`, `2d`. Raises ValueError with the remedy."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("write a number of seconds, or a text such as '90s', '5m', '2h', '1d'")
    seconds = _read_units(value.strip().lower()) if isinstance(value, str) else float(value)
    if not 0 <= seconds <= MAX_DURATION_S:
        raise ValueError("must be between 0 and ten years")
    return seconds


def _read_units(text: str) -> float:
    together = text.replace(" ", "")
    parts = _DURATION.findall(together)
    if parts and "".join(number + unit for number, unit in parts) == together:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"'{text}' is no duration: write '90s', '5m', '2h' or '1d'") from None


def format_duration(seconds: float) -> str:
    """A duration in words of at most two units: `1.2 s`, `4 min 5 s`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds * 1000:.0f} ms"
    whole = round(seconds)
    for size, name, smaller, smaller_name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {name}" + (f" {rest} {smaller_name}" if rest else "")
    return f"{whole} s"


def parse_instant(value: object) -> int:
    """Epoch milliseconds from RFC 3339 with an offset. Raises ValueError with the remedy."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None:
        raise ValueError("write an instant as 2026-12-01T09:00:00+01:00")
    if moment.tzinfo is None:
        raise ValueError("the instant needs an offset, such as Z or +01:00")
    return round(moment.timestamp() * 1000)


def datetime_of(at_ms: int) -> datetime:
    """The instant as an aware datetime in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def format_instant(at_ms: int | None) -> str | None:
    """RFC 3339 in UTC with milliseconds, as the API shows instants; None stays None."""
    if at_ms is None:
        return None
    return datetime_of(at_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def zone(name: str) -> ZoneInfo:
    """The IANA time zone of that name. Raises ValueError with the remedy."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"there is no time zone '{name}': use an IANA name such as Europe/Berlin or UTC") from None
