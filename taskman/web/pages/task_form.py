"""The form of a task: its definition, and one set of fields for each schedule."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from ...errors import Fault
from ...model.instants import parse_duration, zone
from ...model.preview import Surroundings
from ..catalogue import KnownType
from ..forms import Field, Form
from ..schemas import fields_of
from .looks import Look, look
from .run_form import option_fields

__all__ = ["Slot", "TaskForm"]

_KINDS = (("none", "None"), ("cron", "Cron"), ("every", "Every"), ("at", "Once"), ("after", "After"))
_LOOKED_AT = 3
_AFTER_HELP = "a delay after its own last run, such as 5m; or other tasks: backup, check:failure, clean:always"
# what the form does not show: what goes with any trigger, and what only goes with the one that it was written for
_KEPT_ALWAYS = frozenset({"start", "end", "params"})
_KEPT = (
    "anchor",
    "start",
    "end",
    "max_runs",
    "jitter",
    "catchup",
    "catchup_window",
    "catchup_max",
    "params",
    "exclude",
    "window",
)
_MOST = 50


class Slot(Form):
    """The fields of one schedule."""

    def __init__(self, number: int, timezone: str) -> None:
        prefix = f"schedules.{number}."
        self.number = number
        self.kind = Field(prefix + "kind", "Kind", "choice", choices=_KINDS, value="none")
        self.timezone = Field(prefix + "timezone", "Time zone", value=timezone, help="such as Europe/Berlin or UTC")
        self.kept = Field(prefix + "kept", "", "json")
        self.times = {
            "cron": Field(prefix + "cron", "Cron", example="30 2 * * 1-5", help="minute hour day month weekday"),
            "every": Field(prefix + "every", "Every", "duration", example="10m", help="such as 30s, 10m, 2h, 1d"),
            "at": Field(prefix + "at", "Time", "moment", help="a date and a time, once"),
            "after": Field(prefix + "after", "After", example="5m", help=_AFTER_HELP),
        }
        super().__init__(all=[self.kind, *self.times.values(), self.timezone, self.kept])

    @property
    def is_set(self) -> bool:
        """Whether there is a schedule here at all."""
        return self.kind.value in self.times

    def show_schedule(self, schedule: Mapping[str, Any]) -> None:
        """Fill the fields from a schedule as the API shows it."""
        self.kind.value = next(name for name in self.times if schedule.get(name) is not None)
        self.timezone.value = schedule.get("timezone") or self.timezone.value
        self.times["at"].timezone = self.timezone.value
        typed = {name: schedule.get(name) for name in self.times}
        if isinstance(schedule.get("after"), list):
            typed["after"] = ", ".join(_upstream_text(one) for one in schedule["after"])
        elif schedule.get("after") is not None:
            typed["after"] = _duration_text(schedule["after"])
        self.show({"schedules": {str(self.number): typed}})
        more = {name: schedule[name] for name in _KEPT if schedule.get(name) is not None}
        written = {"kind": self.kind.value, "value": self.times[self.kind.value].value}
        self.kept.value = json.dumps({**written, **more}) if more else ""

    def read(self) -> tuple[dict[str, Any], list[Fault]]:
        """The schedule as the API takes it, and the faults of what cannot be read."""
        chosen = self.times[self.kind.value]
        chosen.timezone = self.timezone.value.strip() or "UTC"
        try:
            zone(chosen.timezone)
        except ValueError as error:
            return {}, [Fault(f"/schedules/{self.number}/timezone", str(error))]
        read, faults = Form(only=[chosen]).read()
        typed = read.get("schedules", {}).get(str(self.number), {})
        if "after" in typed:
            typed["after"] = _after(typed["after"])
        return {self.kind.value: "", **typed, "timezone": chosen.timezone, **self._kept()}, faults

    def _kept(self) -> dict[str, Any]:
        """What the form does not show, and editing must not lose; the anchor only while the period stays."""
        try:
            kept = json.loads(self.kept.value or "{}")
        except ValueError:
            return {}
        if not isinstance(kept, dict):
            return {}
        same_kind = kept.get("kind") == self.kind.value
        same = same_kind and kept.get("value") == self.times[self.kind.value].value.strip()
        return {
            name: kept[name]
            for name in _KEPT
            if name in kept and (name in _KEPT_ALWAYS or (same if name == "anchor" else same_kind))
        }

    def look(self, now_ms: int, around: Surroundings | None = None) -> Look:
        """The preview of what is typed here; nothing while the field is empty, or has its fault beside it already."""
        if not self.is_set or not self.times[self.kind.value].value.strip():
            return Look()
        typed, faults = self.read()
        if faults or any(one.faults for one in self.fields.values()):
            return Look(fault="" if self.timezone.faults or not faults else faults[0].detail)
        return look(typed, self.timezone.value.strip() or "UTC", now_ms, count=_LOOKED_AT, around=around)


def _upstream_text(one: Mapping[str, Any]) -> str:
    """A task that is waited for as it is typed: `backup`, or `backup:failure`."""
    return one["task"] if one.get("on", "success") == "success" else f"{one['task']}:{one['on']}"


def _duration_text(seconds: float) -> str:
    return f"{seconds:g}s"


def _after(text: str) -> Any:
    """What was typed as the API takes it: a delay, or tasks by their names."""
    try:
        return parse_duration(text)
    except ValueError:
        parts = [part.strip().partition(":") for part in text.split(",") if part.strip()]
    return [{"task": name.strip(), **({"on": how.strip()} if colon else {})} for name, colon, how in parts]


def _gate_fields() -> list[Field]:
    """What keeps the runs of a task apart from each other and from those of other tasks."""
    overlaps = (("", "Default"), ("skip", "Skip"), ("queue", "Queue"), ("replace", "Replace"), ("allow", "Allow"))
    help_text = "when a run is due while another is not final; default: schedules skip, everything else queues"
    return [
        Field("overlap", "Overlap", "choice", choices=overlaps, help=help_text),
        Field("max_concurrency", "Concurrency", "number", default="1", help="how many of its runs may run at once"),
        Field("limits", "Limits", "map", help="shared with other tasks; name=room, one a line"),
    ]


class TaskForm(Form):
    """A task of one type with `count` places for schedules."""

    def __init__(self, task_type: KnownType, timezone: str, count: int = 1) -> None:
        super().__init__(
            about=[
                Field("name", "Name", required=True, example="nightly-backup", help="letters, digits, . _ -"),
                Field("description", "Description", help="what it is for, for whoever is woken by it"),
            ],
            params=fields_of(task_type.schema, "params."),
            options=[*option_fields(), *_gate_fields()],
            enabled=[Field("enabled", "Schedules are on", "flag", help="off: it runs only when asked", value="on")],
        )
        self.task_type = task_type
        self.slots = [Slot(number, timezone) for number in range(max(1, min(count, _MOST)))]
        self._sent: list[Slot] = []

    @property
    def fields(self) -> dict[str, Field]:
        """See Form.fields."""
        return super().fields | {name: one for slot in self.slots for name, one in slot.fields.items()}

    def show(self, body: Mapping[str, Any]) -> None:
        """See Form.show."""
        super().show(body)
        for slot, schedule in zip(self.slots, body.get("schedules", ()), strict=False):
            slot.show_schedule(schedule)

    def over(self, definition: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
        """The body laid over the definition that was edited: what the form does not show is not lost."""
        kept = copy.deepcopy(dict(definition))
        for name in ("params", "schedules"):
            kept.pop(name, None)
        for name in super().fields:
            _drop(kept, name.split("."))
        return _merged(kept, body)

    def read(self) -> tuple[dict[str, Any], list[Fault]]:
        """See Form.read; with the schedules that are set, in order."""
        body, faults = super().read()
        body |= {"type": self.task_type.name, "schedules": [], "params": body.get("params", {})}
        self._sent = []
        for slot in self.slots:
            if slot.is_set:
                schedule, wrong = slot.read()
                faults += wrong
                if not wrong:
                    body["schedules"].append(schedule)
                    self._sent.append(slot)
        return body, faults

    def located(self, fault: Fault) -> Fault:
        """See Form.located; the nth schedule sent need not come from the nth place."""
        section, *path = fault.pointer.strip("/").split("/")
        if section != "schedules" or not path or not path[0].isdigit() or int(path[0]) >= len(self._sent):
            return fault
        slot = self._sent[int(path[0])]
        return Fault(f"/schedules/{slot.number}/{path[1] if path[1:] else slot.kind.value}", fault.detail)


def _drop(body: dict[str, Any], path: list[str]) -> None:
    for part in path[:-1]:
        body = body.get(part) or {}
    body.pop(path[-1], None)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        both = name == "retry" and isinstance(under, Mapping) and isinstance(value, Mapping)
        merged[name] = _merged(under, value) if both and isinstance(under, Mapping) else value
    return merged
