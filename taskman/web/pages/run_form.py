"""The form of a new run: what to run, when, and with which options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import Fault, InvalidInput
from ...model.run import DEFAULT_GRACE_S, Run
from ..catalogue import KnownType
from ..forms import Field, Form
from ..schemas import fields_of

__all__ = ["RunForm", "again", "first_type", "option_fields"]


def first_type(types: Sequence[KnownType]) -> str:
    """The type that a form begins with. Raises InvalidInput when there is none."""
    names = [one.name for one in types]
    if not names:
        raise InvalidInput("there is no task type: install a plugin on this server or a worker, and start it again")
    return "shell" if "shell" in names else names[0]


_PLACES = (("any", "On one worker"), ("all", "On every worker"))


def option_fields() -> list[Field]:
    """The options that runs and tasks share."""
    return [
        Field("queue", "Queue", default="default", help="routes the run to workers that serve this queue"),
        Field("priority", "Priority", "number", default="0", help="−100 to 100; higher runs first"),
        Field("timeout", "Timeout", "duration", default="none", help="for one attempt: 90s, 5m, 2h"),
        Field("grace", "Grace", "duration", default=f"{DEFAULT_GRACE_S:g}s", help="to clean up when cancelled"),
        Field("retry.max_attempts", "Attempts", "number", default="1", help="in all, the first included"),
        Field("idle_timeout", "Idle timeout", "duration", default="none", help="how long it may be silent"),
        Field("deadline", "Deadline", "duration", default="none", help="for the whole run, with its retries"),
        Field("start_deadline", "Start deadline", "duration", default="none", help="how long it may wait to start"),
        Field("place", "Place", "choice", choices=_PLACES, value="any", preset="any", help="which workers run it"),
        Field("requires", "Required labels", "map", help="labels that the worker must have; name=value, one a line"),
        Field("env", "Environment", "map", help="variables of its processes; KEY=value, one a line"),
    ]


class RunForm(Form):
    """A new run of one type; `timezone` is that of the wall-clock time in `at`."""

    def __init__(self, task_type: KnownType, timezone: str) -> None:
        starts = (("now", "Now"), ("delay", "After a delay"), ("at", "At a time"))
        super().__init__(
            params=fields_of(task_type.schema, "params."),
            when=[
                Field("start", "Start", "choice", choices=starts, value="now"),
                Field("delay", "Delay", "duration", example="10m", help="such as 90s, 10m, 2h, 1d"),
                Field("at", "Time", "moment", help=f"in {timezone}", timezone=timezone),
            ],
            options=option_fields(),
        )
        self.task_type = task_type

    def read(self) -> tuple[dict[str, Any], list[Fault]]:
        """See Form.read; of the two ways to wait only the chosen one."""
        start = self.fields["start"].value
        for name in ("delay", "at"):
            if name != start:
                self.fields[name].value = ""
        body, faults = super().read()
        body.pop("start", None)
        body["type"] = self.task_type.name
        if start in ("delay", "at") and not self.fields[start].value.strip():
            faults.append(Fault(f"/{start}", "chosen, and left blank: say when, or start now"))
        return body, faults


def again(run: Run) -> dict[str, Any]:
    """The body that repeats a run: the same type, params and options, now."""
    spec = run.spec
    body: dict[str, Any] = {"params": spec.params, "queue": spec.queue, "priority": spec.priority}
    body |= {"grace": spec.grace_s, "env": spec.env, "type": spec.type, "requires": spec.requires}
    body["place"] = spec.place
    limits = {
        "timeout": spec.timeout_s,
        "idle_timeout": spec.idle_timeout_s,
        "deadline": spec.deadline_s,
        "start_deadline": spec.start_deadline_s,
        "retry": spec.retry or None,
    }
    return body | {name: value for name, value in limits.items() if value is not None}
