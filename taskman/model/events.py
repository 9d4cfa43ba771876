"""Events: what the store tells about every change, as one line of text each."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = [
    "DueEvent",
    "Event",
    "PlaceEvent",
    "QueueEvent",
    "RunEvent",
    "TaskEvent",
    "TokenEvent",
    "Topic",
    "WorkerEvent",
    "parse_event",
    "topics_of",
]


class RunEvent(NamedTuple):
    """A run changed its state. A tuple: thousands are made each second, and a dataclass takes three times as long."""

    id: str
    state: str
    reason: str | None
    attempt: int
    worker: str | None
    task: str | None
    signature: str


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """A task was created, changed or deleted."""

    name: str
    change: str


@dataclass(frozen=True, slots=True)
class DueEvent:
    """Something will be due at this instant (epoch ms): the scheduler may have to wake up earlier."""

    at_ms: int


@dataclass(frozen=True, slots=True)
class PlaceEvent:
    """A run of this signature is ready to be placed on all workers."""

    signature: str


@dataclass(frozen=True, slots=True)
class QueueEvent:
    """A queue was paused or resumed."""

    name: str
    change: str


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """A token was revoked."""

    id: str
    change: str


@dataclass(frozen=True, slots=True)
class WorkerEvent:
    """A worker was told to drain or to resume, has connected anew (through `session`), or has stopped."""

    id: str
    change: str
    session: str | None = None


Event = RunEvent | TaskEvent | DueEvent | PlaceEvent | QueueEvent | TokenEvent | WorkerEvent

Topic = type[Event] | str
"""A kind of events; of runs, the state that they have entered."""


def _some(text: str) -> str | None:
    return None if text == "-" else text


# But for runs, which are read thousands of times a second: each kind, and how its words are read.
_KINDS: dict[str, tuple[type[Event], tuple[Callable[[str], Any], ...]]] = {
    "task": (TaskEvent, (str, str)),
    "due": (DueEvent, (int,)),
    "place": (PlaceEvent, (str,)),
    "queue": (QueueEvent, (str, str)),
    "token": (TokenEvent, (str, str)),
    "worker": (WorkerEvent, (str, str, _some)),
}
_TOPIC = re.compile(r"^(?:run \S+ (\S+)|(\S+)) ", re.MULTILINE)


def topics_of(lines: str) -> set[Topic]:
    """What lines are about, at a fraction of the cost of reading them."""
    found = set(_TOPIC.findall(lines))
    return {state or (_KINDS[kind][0] if kind in _KINDS else kind) for state, kind in found}


def parse_event(line: str) -> Event | None:
    """Read a line as the scripts announce it; None for a kind that a newer version added."""
    kind, *rest = line.split(" ")
    if kind == "run" and len(rest) == 7:
        run_id, state, reason, attempt, worker, task, signature = rest
        return RunEvent(run_id, state, _some(reason), int(attempt), _some(worker), _some(task), signature)
    event, readers = _KINDS.get(kind, (None, ()))
    if event is None or len(rest) != len(readers):
        return None
    return event(*(read(word) for read, word in zip(readers, rest, strict=True)))
