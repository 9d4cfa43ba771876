"""What people send: the body of a run, and the definition of a task; and the task as the store holds it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from .instants import format_instant
from .run import DEFAULT_GRACE_S, RunSpec
from .schedule import Schedule
from .validation import Duration, Instant

__all__ = ["RunOptions", "RunRequest", "Task", "TaskDefinition", "TaskRunRequest"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MAX_SCHEDULES = 50


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"'{name}' cannot be a name: start with a letter or digit, then letters, digits, '.', '_' or '-', "
            "at most 100 characters"
        )
    return name


def _check_environment(env: dict[str, str]) -> dict[str, str]:
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"'{name}' cannot be an environment variable: no '=' in the name, no zero bytes")
        if name.startswith("TASKMAN_"):
            raise ValueError(f"'{name}' is set by Taskman itself: choose a name that does not begin with TASKMAN_")
    return env


Name = Annotated[str, AfterValidator(_check_name)]
Environment = Annotated[dict[str, str], AfterValidator(_check_environment)]


class RunOptions(BaseModel):
    """The options that a run and a task share; durations are seconds."""

    model_config = ConfigDict(extra="forbid")

    queue: Name = Field("default", description="the name that routes the run to workers")
    priority: int = Field(0, ge=-100, le=100, description="higher runs first; a level is worth five minutes of waiting")
    timeout: Duration | None = Field(None, description="how long one attempt may take")
    grace: Duration = Field(DEFAULT_GRACE_S, description="how long a cancelled attempt may take to clean up")
    env: Environment = Field(default_factory=dict, description="environment variables of the run's processes")

    def run_options(self) -> dict[str, Any]:
        """The options under the names that a RunSpec has."""
        return {
            "queue": self.queue,
            "priority": self.priority,
            "timeout_s": self.timeout,
            "grace_s": self.grace,
            "env": self.env,
        }


class RunRequest(RunOptions):
    """The body of `POST /runs`."""

    type: str | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    task: str | None = Field(None, description="a saved task whose values are the defaults")
    at: Instant | None = Field(None, description="not before this instant")
    delay: Duration | None = Field(None, description="not before so much later")


class TaskRunRequest(BaseModel):
    """The body of `POST /tasks/{name}/runs`: what differs from the task this once."""

    model_config = ConfigDict(extra="forbid")

    params: dict[str, Any] = Field(default_factory=dict, description="merged over the task's")
    at: Instant | None = None
    delay: Duration | None = None
    queue: Name | None = None
    priority: int | None = Field(None, ge=-100, le=100)
    timeout: Duration | None = None
    env: Environment = Field(default_factory=dict, description="merged over the task's")


class TaskDefinition(RunOptions):
    """The body of `POST /tasks` and `PUT /tasks/{name}`."""

    name: Name
    type: str
    params: dict[str, Any] = Field(default_factory=dict)
    description: str = Field("", max_length=2000)
    schedules: list[Schedule] = Field(default_factory=list, max_length=MAX_SCHEDULES)
    enabled: bool = Field(True, description="whether its schedules fire")

    def to_json(self) -> dict[str, Any]:
        """What reads back as the same definition; instants as RFC 3339, durations as seconds."""
        shown = self.model_dump()
        first = {name: shown.pop(name) for name in ("name", "type", "params", "description", "enabled")}
        return {**first, **shown, "schedules": [schedule.to_json() for schedule in self.schedules]}

    def to_document(self) -> bytes:
        """to_json as compact JSON."""
        return json.dumps(self.to_json(), separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_document(cls, document: bytes) -> TaskDefinition:
        """The opposite of to_document; parsed once for each text, since schedules fire over and over."""
        return _parse_definition(document)


@lru_cache(maxsize=10_000)
def _parse_definition(document: bytes) -> TaskDefinition:
    return TaskDefinition.model_validate(json.loads(document))


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A saved task. `revision` counts its versions; `next_ms` is its next fire time."""

    definition: TaskDefinition
    revision: int
    created_ms: int
    updated_ms: int
    next_ms: int | None = None

    @property
    def name(self) -> str:
        return self.definition.name

    def spec(self, *, trigger: str, fire_time_ms: int | None = None, params: dict[str, Any] | None = None) -> RunSpec:
        """What a run of this task executes; `params` are merged over the task's own."""
        definition = self.definition
        return RunSpec(
            type=definition.type,
            params={**definition.params, **(params or {})},
            task=definition.name,
            trigger=trigger,
            fire_time_ms=fire_time_ms,
            **definition.run_options(),
        )

    def to_json(self) -> dict[str, Any]:
        """As the API shows it; instants as RFC 3339, durations as seconds."""
        return {
            **self.definition.to_json(),
            "revision": self.revision,
            "created_at": format_instant(self.created_ms),
            "updated_at": format_instant(self.updated_ms),
            "next_at": format_instant(self.next_ms),
        }
