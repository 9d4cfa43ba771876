"""What people send: the body of a run, and the definition of a task; and the task as the store holds it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from .instants import format_instant
from .misfire import Span
from .names import Name, check_name
from .retry import NO_RETRY, RetryPolicy
from .run import DEFAULT_GRACE_S, DEFAULT_LOST_GRACE_S, DEFAULT_MAX_LOST, Place, RunSpec
from .sameness import Unique, compact, render
from .schedule import Schedule
from .validation import Duration, Instant

__all__ = ["CancelRequest", "RetryRequest", "RunOptions", "RunRequest", "Task", "TaskDefinition", "TaskRunRequest"]

_LABEL = re.compile(r"[A-Za-z0-9._/-]{1,63}")
MAX_SCHEDULES = 50


def _check_environment(env: dict[str, str]) -> dict[str, str]:
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"'{name}' cannot be an environment variable: no '=' in the name, no zero bytes")
        if name.startswith("TASKMAN_"):
            raise ValueError(f"'{name}' is set by Taskman itself: choose a name that does not begin with TASKMAN_")
    return env


def _check_labels(labels: dict[str, str]) -> dict[str, str]:
    for name, value in labels.items():
        if not _LABEL.fullmatch(name) or not _LABEL.fullmatch(value):
            raise ValueError(f"'{name}={value}' cannot be a label: use letters, digits, '.', '_', '-' and '/'")
    if "place" in labels:
        raise ValueError("'place' cannot be a label: it is an option of its own, give place: all beside requires")
    return labels


def _check_lost_grace(seconds: float) -> float:
    if seconds > 86_400:
        raise ValueError("at most 24h")
    return seconds


Labels = Annotated[dict[str, str], AfterValidator(_check_labels)]
Environment = Annotated[dict[str, str], AfterValidator(_check_environment)]


def _check_limits(limits: dict[str, int]) -> dict[str, int]:
    for name, room in limits.items():
        check_name(name)
        if not 1 <= room <= 100_000:
            raise ValueError(f"limit '{name}' takes a number from 1 to 100000")
    return limits


Limits = Annotated[dict[str, int], AfterValidator(_check_limits)]
Overlap = Literal["skip", "queue", "replace", "allow"]


class RunOptions(BaseModel):
    """The options that a run and a task share; durations are seconds."""

    model_config = ConfigDict(extra="forbid")

    queue: Name = Field("default", description="the name that routes the run to workers")
    priority: int = Field(0, ge=-100, le=100, description="higher runs first; a level is worth five minutes of waiting")
    requires: Labels = Field(
        default_factory=dict, description="labels that a worker must have; worker=ID stands for one worker alone"
    )
    place: Place = Field("any", description="any: on one worker; all: once on each worker that could run it then")
    timeout: Duration | None = Field(None, description="how long one attempt may take")
    idle_timeout: Duration | None = Field(None, description="how long an attempt may be silent")
    start_deadline: Duration | None = Field(None, description="how long it may wait for its first attempt")
    deadline: Duration | None = Field(None, description="how long the whole run may take, with its retries")
    retry: RetryPolicy = Field(
        default_factory=lambda: NO_RETRY, description="whether and when a failed attempt is followed by another"
    )
    on_lost: Literal["retry", "fail"] = Field("retry", description="fail: at most once, also when its worker goes away")
    max_lost: int = Field(DEFAULT_MAX_LOST, ge=0, le=100, description="how often its worker may go away")
    lost_grace: Annotated[Duration, AfterValidator(_check_lost_grace)] = Field(
        DEFAULT_LOST_GRACE_S, description="how long a suspect run may come back before it is lost"
    )
    grace: Duration = Field(DEFAULT_GRACE_S, description="how long a cancelled attempt may take to clean up")
    unique: Unique | None = Field(None, description="what makes another run the same as this one")
    env: Environment = Field(default_factory=dict, description="environment variables of the run's processes")

    @cached_property
    def run_options(self) -> Mapping[str, Any]:
        """The options under the names that a RunSpec has; made once, since schedules fire over and over."""
        return {
            "queue": self.queue,
            "priority": self.priority,
            "requires": self.requires,
            "place": self.place,
            "timeout_s": self.timeout,
            "idle_timeout_s": self.idle_timeout,
            "start_deadline_s": self.start_deadline,
            "deadline_s": self.deadline,
            "retry": {} if self.retry is NO_RETRY else self.retry.model_dump(exclude_defaults=True),
            "max_lost": 0 if self.on_lost == "fail" else self.max_lost,
            "lost_grace_s": self.lost_grace,
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


class CancelRequest(BaseModel):
    """The body of `POST /runs/{id}/cancel`."""

    model_config = ConfigDict(extra="forbid")

    force: bool = Field(default=False, description="without a grace to clean up")


class RetryRequest(BaseModel):
    """The body of `POST /runs/{id}/retry`."""

    model_config = ConfigDict(extra="forbid")

    params: dict[str, Any] | None = Field(default=None, description="in place of the run's own")


class TaskRunRequest(BaseModel):
    """The body of `POST /tasks/{name}/runs`: what differs from the task this once."""

    model_config = ConfigDict(extra="forbid")

    params: dict[str, Any] = Field(default_factory=dict, description="merged over the task's")
    at: Instant | None = None
    delay: Duration | None = None
    queue: Name | None = None
    priority: int | None = Field(None, ge=-100, le=100)
    place: Place | None = None
    timeout: Duration | None = None
    retry: RetryPolicy | None = None
    env: Environment = Field(default_factory=dict, description="merged over the task's")


class TaskDefinition(RunOptions):
    """The body of `POST /tasks` and `PUT /tasks/{name}`."""

    name: Name
    type: str
    params: dict[str, Any] = Field(default_factory=dict)
    description: str = Field("", max_length=2000)
    schedules: list[Schedule] = Field(default_factory=list, max_length=MAX_SCHEDULES)
    enabled: bool = Field(True, description="whether its schedules fire")
    overlap: Overlap | None = Field(None, description="default: skip for schedules, queue for everything else")
    max_concurrency: int | None = Field(None, ge=1, le=100_000, description="how many of its runs may run at once")
    concurrency_key: str | None = Field(None, max_length=200, description="a template: runs of one key count together")
    limits: Limits = Field(
        default_factory=dict, description="limits shared with other tasks: how many runs may hold each"
    )

    @field_validator("schedules")
    @classmethod
    def _check_chains(cls, schedules: list[Schedule], info: ValidationInfo) -> list[Schedule]:
        name = info.data.get("name")
        for schedule in schedules:
            if isinstance(schedule.after, list) and any(one.task == name for one in schedule.after):
                raise ValueError(f"'{name}' cannot wait for itself: write a delay, such as 'after': '5m'")
        if sum(not isinstance(schedule.after, list | None) for schedule in schedules) > 1:
            raise ValueError("one delay after its own last run is enough: the shortest would win")
        return schedules

    @property
    def upstreams(self) -> list[str]:
        """The tasks that its schedules wait for."""
        chains = [schedule.after for schedule in self.schedules if isinstance(schedule.after, list)]
        return sorted({one.task for chain in chains for one in chain})

    def to_json(self) -> dict[str, Any]:
        """What reads back as the same definition; instants as RFC 3339, durations as seconds."""
        shown = self.model_dump(by_alias=True)
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


def permits_of(definition: TaskDefinition, params: Mapping[str, Any]) -> tuple[dict[str, int], str | None]:
    """The permits that a run of the task needs, with their room, and the group within which its runs overlap."""
    permits = {f"limit/{name}": room for name, room in definition.limits.items()}
    if definition.overlap == "allow" and definition.max_concurrency is None:
        return permits, None
    group = f"task/{definition.name}"
    if definition.concurrency_key is not None:
        group += "/" + compact(render(definition.concurrency_key, definition.name, params, "/concurrency_key"))
    return {group: definition.max_concurrency or 1, **permits}, group


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A saved task. `revision` grows with each version; `next_ms` is its next fire time.

    By the number of a schedule: `cursors` are their next fire times, `fired` is how many runs it has had, where
    `max_runs` counts them, and `skips` the first of the instants before its next fire time at which it may not fire.
    `is_new`: there was none of its name before it was saved.
    """

    definition: TaskDefinition
    revision: int
    created_ms: int
    updated_ms: int
    next_ms: int | None = None
    fired: Mapping[int, int] = field(default_factory=dict)
    skips: Mapping[int, int] = field(default_factory=dict)
    cursors: Mapping[int, int] = field(default_factory=dict, compare=False)
    is_new: bool = field(default=False, compare=False)

    @property
    def name(self) -> str:
        return self.definition.name

    def spec(
        self,
        *,
        trigger: str,
        fire_time_ms: int | None = None,
        params: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> RunSpec:
        """What a run of this task executes; `params` and `options` (as RunSpec names them) replace the task's own.

        Raises: InvalidInput when a template names a parameter that is not there.
        """
        definition = self.definition
        merged = {**definition.params, **(params or {})}
        permits, group = permits_of(definition, merged)
        return RunSpec(
            type=definition.type,
            params=merged,
            task=definition.name,
            trigger=trigger,
            fire_time_ms=fire_time_ms,
            permits=permits,
            group=group,
            unique=definition.unique.word(definition.name, merged) if definition.unique else None,
            **{**definition.run_options, **(options or {})},
        )

    def accounted_ms(self, number: int) -> int:
        """Until when the due instants of a schedule have had their outcome, some perhaps before they came."""
        return self.skips.get(number, self.cursors.get(number, 0)) - 1

    def closed_before(self, number: int, due_ms: int) -> list[Span]:
        """The instants of a schedule before its due one at which it might not fire, so that nobody woke up for them."""
        first_ms, schedule = self.skips.get(number), self.definition.schedules[number]
        last_ms = schedule.previous(due_ms - 1)
        if first_ms is None or last_ms is None or last_ms < first_ms:
            return []
        return [Span("skipped", first_ms, last_ms, schedule.count(first_ms - 1, last_ms))]

    def overlap_for(self, trigger: str) -> str:
        """What a new run does when others of its group are not final yet."""
        return self.definition.overlap or ("skip" if trigger == "schedule" else "queue")

    def to_json(self) -> dict[str, Any]:
        """As the API shows it; instants as RFC 3339, durations as seconds."""
        return {
            **self.definition.to_json(),
            "revision": self.revision,
            "created_at": format_instant(self.created_ms),
            "updated_at": format_instant(self.updated_ms),
            "next_at": format_instant(self.next_ms),
        }
