"""Runs: what is asked for (RunSpec, frozen), and what became of it (Run, with its history and attempts)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal
from urllib.parse import unquote

from msgspec import NODEFAULT, DecodeError, Struct
from msgspec.json import Decoder
from msgspec.structs import fields, replace
from pydantic_core import from_json, to_json

from ..errors import Fault, InvalidInput
from .instants import format_instant
from .progress import Progress
from .retry import NO_RETRY, RetryPolicy
from .states import FINAL, AttemptState, State

__all__ = ["PLACEMENT", "Attempt", "HistoryEntry", "Place", "Run", "RunSpec", "check_sizes"]

PARAMS_LIMIT = 1024 * 1024
PLACED_PARAMS_LIMIT = 64 * 1024
ENV_LIMIT = 64 * 1024

# The actor that turns a run with `place: all` into its children, as their history names it.
PLACEMENT = "placement"
Place = Literal["any", "all"]

DEFAULT_GRACE_S = 10.0
DEFAULT_MAX_LOST = 3
DEFAULT_LOST_GRACE_S = 20.0


class RunSpec(Struct, frozen=True, kw_only=True, gc=False):
    """The frozen copy of what to execute. Times are seconds, `fire_time_ms` is epoch ms.

    A Struct: made in a tenth of the time of a dataclass, twice for every run. JSON has no cycles to be collected.
    """

    type: str
    params: dict[str, Any]
    task: str | None = None
    queue: str = "default"
    priority: int = 0
    requires: dict[str, str] = {}
    timeout_s: float | None = None
    grace_s: float = DEFAULT_GRACE_S
    idle_timeout_s: float | None = None
    start_deadline_s: float | None = None
    deadline_s: float | None = None
    retry: dict[str, Any] = {}
    max_lost: int = DEFAULT_MAX_LOST
    lost_grace_s: float = DEFAULT_LOST_GRACE_S
    permits: dict[str, int] = {}
    group: str | None = None
    unique: str | None = None
    env: dict[str, str] = {}
    trigger: str = "api"
    parent: str | None = None
    fire_time_ms: int | None = None
    place: Place = "any"

    @property
    def signature(self) -> str:
        """What a worker must serve to run this: type, queue and required labels, without blanks.

        With `place: all`, a label that no worker has: such a run is not claimed, but becomes a child on each worker.
        """
        requires = self.requires if self.place == "any" else {**self.requires, "place": self.place}
        labels = ",".join(f"{key}={value}" for key, value in sorted(requires.items()))
        return f"{self.type}|{self.queue}|{labels}"

    @property
    def policy(self) -> RetryPolicy:
        """When and how a failed attempt is followed by another."""
        return RetryPolicy.model_validate(self.retry) if self.retry else NO_RETRY

    @property
    def script_options(self) -> str:
        """What the scripts must know of the options, as words; empty for a plain run. See lua/prelude.lua."""
        words = {
            "sd": _ms(self.start_deadline_s),
            "dl": _ms(self.deadline_s),
            "gr": _ms(self.lost_grace_s) if self.lost_grace_s != DEFAULT_LOST_GRACE_S else None,
            "ml": self.max_lost if self.max_lost != DEFAULT_MAX_LOST else None,
            "pm": ",".join(f"{name}={room}" for name, room in self.permits.items()) or None,
            "lv": self.group,
            "uq": self.unique,
            "pl": self.place if self.place != "any" else None,
            "pa": self.parent if self.is_child else None,
        }
        return "".join(f" {name}={value}" for name, value in words.items() if value is not None)

    @property
    def is_child(self) -> bool:
        """Whether its outcome is part of its parent's."""
        return self.trigger == "place"

    def pinned(self, parent: str, worker: str) -> RunSpec:
        """What the run of that id becomes on a worker. What is about the whole of it stays with the parent."""
        return replace(
            self,
            place="any",
            requires={**self.requires, "worker": worker},
            parent=parent,
            trigger="place",
            permits={},
            group=None,
            unique=None,
            deadline_s=None,
        )

    def repeated(self, run_id: str, params: dict[str, Any]) -> RunSpec:
        """What a repetition of the run of that id executes, with these params."""
        return replace(self, params=params, trigger="retry", parent=run_id, fire_time_ms=None)

    def to_document(self) -> bytes:
        """Compact JSON; fields at their default are left out."""
        values = zip(_SPEC_FIELDS, _all_fields(self), _SPEC_DEFAULTS, strict=True)
        told = {name: value for name, value, default in values if value is not default and value != default}
        return to_json(told, inf_nan_mode="constants")

    @classmethod
    def from_document(cls, document: bytes) -> RunSpec:
        """The opposite of to_document; unknown fields of a newer version are ignored."""
        try:
            return _decoder.decode(document)
        except DecodeError:  # infinity and NaN, for which JSON has no word
            return cls(**{name: value for name, value in from_json(document).items() if name in _SPEC_NAMES})


def check_sizes(params: Mapping[str, Any], env: Mapping[str, str], place: Place = "any") -> None:
    """Refuse what is too big to be kept with every run, or with each child. Raises InvalidInput with all faults."""
    most = PARAMS_LIMIT if place == "any" else PLACED_PARAMS_LIMIT
    env_size = sum(len(name.encode()) + len(value.encode()) + 2 for name, value in env.items())
    sizes = {"/params": (len(to_json(params, inf_nan_mode="constants")), most), "/env": (env_size, ENV_LIMIT)}
    faults = [
        Fault(pointer, f"has {size:,} bytes, at most {most:,} are taken: store it elsewhere and pass where it is")
        for pointer, (size, most) in sizes.items()
        if size > most
    ]
    if faults:
        raise InvalidInput(faults)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


_SPEC_FIELDS = RunSpec.__struct_fields__
_SPEC_DEFAULTS = [  # NODEFAULT equals nothing
    one.default_factory() if one.default_factory is not NODEFAULT else one.default for one in fields(RunSpec)
]
_SPEC_NAMES = frozenset(_SPEC_FIELDS)
_all_fields = attrgetter(*_SPEC_FIELDS)
_decoder = Decoder(RunSpec)


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change of state: when (epoch ms), to what, why, in which attempt, by whom."""

    at_ms: int
    state: State
    reason: str | None
    attempt: int
    by: str

    @classmethod
    def parse(cls, line: str) -> HistoryEntry:
        """Read a line as the scripts write it: `ms state reason attempt by`, with `-` for no reason."""
        at, state, reason, attempt, by = line.split(" ")
        return cls(int(at), State(state), None if reason == "-" else reason, int(attempt), unquote(by))

    def to_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {"at": format_instant(self.at_ms), "state": self.state, "reason": self.reason, "by": self.by}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a run by one worker; by all of them (None) when it was placed on all."""

    number: int
    worker: str | None
    state: AttemptState
    reason: str | None
    started_ms: int
    finished_ms: int | None
    result: Any = None

    def to_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "number": self.number,
            "worker": self.worker,
            "state": self.state,
            "reason": self.reason,
            "started_at": format_instant(self.started_ms),
            "finished_at": format_instant(self.finished_ms),
            "result": self.result,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as the store holds it. Everything with a time in it is derived from the history."""

    id: str
    spec: RunSpec
    state: State
    attempt: int
    worker: str | None
    due_ms: int
    history: tuple[HistoryEntry, ...]
    result: Any = None
    error: str | None = None
    earlier_results: Mapping[int, Any] = field(default_factory=dict)
    suspect: bool = False
    progress: Progress | None = None

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    @property
    def reason(self) -> str | None:
        return self.history[-1].reason if self.history else None

    @property
    def created_ms(self) -> int:
        return self.history[0].at_ms

    @property
    def started_ms(self) -> int | None:
        """When the latest attempt began."""
        return next((entry.at_ms for entry in reversed(self.history) if entry.state is State.RUNNING), None)

    @property
    def finished_ms(self) -> int | None:
        return self.history[-1].at_ms if self.is_final else None

    @property
    def attempts(self) -> list[Attempt]:
        """Each `running` entry opens an attempt; the next entry that is not `cancelling` closes it."""
        entries = list(self.history)
        return [
            self._attempt(entry, next((e for e in entries[index + 1 :] if e.state is not State.CANCELLING), None))
            for index, entry in enumerate(entries)
            if entry.state is State.RUNNING
        ]

    def _attempt(self, opened: HistoryEntry, closed: HistoryEntry | None) -> Attempt:
        is_last = opened.attempt == self.attempt
        return Attempt(
            number=opened.attempt,
            worker=opened.by.removeprefix("worker:") if opened.by != PLACEMENT else None,
            state=AttemptState.RUNNING if closed is None else _attempt_state(closed),
            reason=closed.reason if closed else None,
            started_ms=opened.at_ms,
            finished_ms=closed.at_ms if closed else None,
            result=self.result if is_last and self.is_final else self.earlier_results.get(opened.attempt),
        )

    def to_json(self, *, detail: bool = False) -> dict[str, Any]:
        """As the API shows it; attempts and history only with `detail`."""
        spec = self.spec
        shown: dict[str, Any] = {
            "id": self.id,
            "task": spec.task,
            "type": spec.type,
            "params": spec.params,
            "state": self.state,
            "reason": self.reason,
            "queue": spec.queue,
            "priority": spec.priority,
            "requires": spec.requires,
            "place": spec.place,
            "attempt": self.attempt,
            "max_attempts": spec.retry.get("max_attempts", 1),
            "worker": self.worker,
            "suspect": self.suspect,
            "created_at": format_instant(self.created_ms),
            "due_at": format_instant(self.due_ms),
            "started_at": format_instant(self.started_ms),
            "finished_at": format_instant(self.finished_ms),
            "fire_time": format_instant(spec.fire_time_ms),
            "result": self.result,
            "error": self.error,
            "progress": None if self.progress is None else self.progress.to_json(),
            "trigger": spec.trigger,
            "parent": spec.parent,
        }
        if detail:
            shown["attempts"] = [attempt.to_json() for attempt in self.attempts]
            shown["history"] = [entry.to_json() for entry in self.history]
        return shown


def _attempt_state(closed: HistoryEntry) -> AttemptState:
    if closed.reason in ("lost", "released"):
        return AttemptState(closed.reason)
    if closed.reason in ("timeout", "idle_timeout", "deadline"):
        return AttemptState.TIMED_OUT
    return AttemptState.FAILED if closed.state is State.SCHEDULED else AttemptState(closed.state)
