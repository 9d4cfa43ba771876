"""How pages word things: when, how long, what a run is about. The script in the browser words times the same way."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from markupsafe import Markup

from ...model.instants import datetime_of, format_duration, zone
from ...model.run import Run, RunSpec
from ...model.states import REASONS, State
from ...store.tasks import LedgerEntry

__all__ = [
    "facts",
    "format_duration",
    "local",
    "now_ms",
    "outcome",
    "ran",
    "reason",
    "relative",
    "requested",
    "short_id",
    "stamp",
    "summary",
    "title_of",
    "waited",
]

_TRIGGERS = {
    "ui": "by hand",
    "cli": "from the CLI",
    "api": "over the API",
    "schedule": "on schedule",
    "retry": "again",
    "place": "with its parent",
}
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_LONG = 100


def now_ms() -> int:
    """This server's wall clock, for display only."""
    return time.time_ns() // 1_000_000


def relative(at_ms: int, now: int | None = None) -> str:
    """`4 min ago`, `in 2 h`, `now`: the largest unit is enough for a glance."""
    seconds = (at_ms - (now or now_ms())) / 1000
    size, unit = next(((size, unit) for size, unit in _UNITS if abs(seconds) >= size), (1, "s"))
    count = int(abs(seconds) / size)
    if count == 0:
        return "now"
    return f"in {count} {unit}" if seconds > 0 else f"{count} {unit} ago"


def stamp(at_ms: int | None) -> Markup:
    """An instant: relative to read, exact to hover, UTC in the markup; the browser keeps it current."""
    if at_ms is None:
        return Markup('<span class="none">–</span>')
    exact = datetime_of(at_ms)
    return Markup('<time datetime="{}" title="{}" data-relative>{}</time>').format(
        _iso(exact), exact.strftime("%Y-%m-%d %H:%M:%S UTC"), relative(at_ms)
    )


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def local(at_ms: int, timezone: str | None) -> str:
    """The wall clock in that zone: `Tue 24 Nov 2026, 02:30`; seconds only when there are some."""
    moment = datetime_of(at_ms).astimezone(zone(timezone or "UTC"))
    return moment.strftime("%a %-d %b %Y, %H:%M:%S" if moment.second else "%a %-d %b %Y, %H:%M")


def outcome(entry: LedgerEntry, run: Run | None) -> str:
    """What became of a due instant, or of several in a row: `skipped (calendar), 420 times, since … until … UTC`."""
    words = entry.outcome if run is None or entry.outcome == "skipped" else str(run.state)
    reason = f" ({entry.reason})" if entry.reason else ""
    until = f"{local(entry.fire_time_ms, 'UTC')} UTC"
    if entry.count == 1 or entry.since_ms is None:
        return f"{until}: {words}{reason}"
    return f"{local(entry.since_ms, 'UTC')} to {until}: {words}{reason}, {entry.count:,} times"


def ran(run: Run) -> Markup:
    """How long the latest attempt took, or takes until now; the browser counts on."""
    if run.started_ms is None:
        return Markup('<span class="none">–</span>')
    if run.finished_ms is not None:
        return Markup("{}").format(format_duration((run.finished_ms - run.started_ms) / 1000))
    if run.state not in (State.RUNNING, State.CANCELLING):
        return Markup('<span class="none">–</span>')
    since = _iso(datetime_of(run.started_ms))
    return Markup('<time datetime="{}" data-since>{}</time>').format(since, _whole(now_ms() - run.started_ms))


def waited(run: Run) -> str | None:
    """How long the run waited after it was due until its first attempt."""
    first = next((entry.at_ms for entry in run.history if entry.state is State.RUNNING), None)
    return None if first is None else format_duration(max(0, first - run.due_ms) / 1000)


def _whole(milliseconds: int) -> str:
    seconds = max(0, milliseconds) // 1000
    return format_duration(seconds) if seconds >= 60 else f"{seconds} s"


def short_id(run_id: str) -> str:
    """The end of the id: it differs where the beginning, a time, does not."""
    return run_id[-6:]


def summary(spec: RunSpec) -> str:
    """What a run is about, in one line: its task, else the most telling of its params."""
    return spec.task or _gist(spec.params) or spec.type


def title_of(run: Run) -> str:
    """What the browser's tab says: the state first."""
    return f"{run.state} · {summary(run.spec)}"


def _gist(params: Mapping[str, Any]) -> str:
    for value in params.values():
        if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
            value = " ".join(value)
        if isinstance(value, str) and value.strip():
            first, *more = value.strip().splitlines()
            return first[:_LONG] + ("…" if more or len(first) > _LONG else "")
    return ""


def reason(code: str | None) -> str:
    """The sentence for a reason; a code that a plugin made up stands for itself."""
    return REASONS.get(code, code.replace("_", " ")) if code else ""


def requested(run: Run) -> str:
    """What asked for the run; who it was is in its history."""
    return _TRIGGERS.get(run.spec.trigger, run.spec.trigger)


def facts(value: Any) -> list[tuple[str, str]]:
    """A result or params as labels and texts; anything but a mapping has no label."""
    if isinstance(value, Mapping):
        return [_fact(name, one) for name, one in value.items() if one not in (None, {}, [])]
    return [] if value is None else [("", _text(value))]


def _fact(name: str, value: Any) -> tuple[str, str]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if name.endswith("_bytes"):
            return _label(name.removesuffix("_bytes")), _size(value)
        if name.endswith("_s"):
            return _label(name.removesuffix("_s")), format_duration(value)
    return _label(name), _text(value)


def _label(name: str) -> str:
    return name.replace("_", " ")


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return "\n".join(value)
    if isinstance(value, Mapping) and all(isinstance(one, str) for one in value.values()):
        return "\n".join(f"{name}={one}" for name, one in value.items())
    return json.dumps(value, ensure_ascii=False, indent=2)
