"""The gate that every run passes, whatever way it came in: what keeps it from starting, decided and explained.

`reasons` is the rule. The claim script applies the same rule inside Redis, where nothing can come in between; a test
drives both with the same histories and compares them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .instants import format_instant
from .run import Place, Run, RunSpec
from .states import State

__all__ = [
    "Facts",
    "Hindrance",
    "Node",
    "full_permit",
    "hindrances",
    "is_placed",
    "serves",
    "serves_signature",
    "signature_for",
    "worker_named",
]


_NAMED = re.compile(r"[|,]worker=([^,]+)")


@dataclass(frozen=True, slots=True)
class Hindrance:
    """One reason why a run is not running: a code, a sentence, and since when (epoch ms) where that is known."""

    code: str
    detail: str
    since_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A worker as the gate sees it. `queues` None: all of them; `draining`: it takes nothing new."""

    id: str
    types: frozenset[str]
    labels: Mapping[str, str]
    slots: int
    running: int
    queues: frozenset[str] | None = None
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What the decision rests on: runs that hold each permit, paused queues, live workers, place among the ready."""

    holders: Mapping[str, int] = field(default_factory=dict)
    paused: frozenset[str] = frozenset()
    workers: Sequence[Node] = ()
    ahead: int = 0


def serves(worker: Node, spec: RunSpec) -> bool:
    """Whether that worker can execute such a run."""
    return (
        spec.type in worker.types
        and (worker.queues is None or spec.queue in worker.queues)
        and all(_label(worker, name) == value for name, value in spec.requires.items())
    )


def _label(worker: Node, name: str) -> str | None:
    """Whatever a worker says of itself, it is the one worker of its id."""
    return worker.id if name == "worker" else worker.labels.get(name)


def serves_signature(worker: Node, signature: str) -> bool:
    """The same for any run of a signature; see RunSpec.signature. Nobody claims a run that is to be placed on all."""
    spec = _any_of(signature)
    return spec.place == "any" and serves(worker, spec)


def is_placed(signature: str) -> bool:
    """Whether its runs become children on each worker."""
    return "place=" in signature and _any_of(signature).place == "all"


def signature_for(worker: Node, signature: str) -> str | None:
    """Under which signature that worker would claim: this one, or that of its children; None when it does not serve it.

    What pins a child to a worker is in no list of signatures, which would grow with each worker that ever was.
    """
    spec = _any_of(signature)
    if not serves(worker, spec):
        return None
    return signature if spec.place == "any" else spec.pinned("", worker.id).signature


def worker_named(signature: str) -> str | None:
    """The worker that alone may claim runs of that signature; None when any like it may."""
    found = _NAMED.search(signature) if "worker=" in signature else None
    return found[1] if found else None


def _any_of(signature: str) -> RunSpec:
    """As much of a run of that signature as it says."""
    type_name, queue, labels = signature.split("|")
    requires = dict(label.split("=") for label in labels.split(",") if label)
    place: Place = "all" if requires.pop("place", None) else "any"
    return RunSpec(type=type_name, params={}, queue=queue, requires=requires, place=place)


def full_permit(spec: RunSpec, holders: Mapping[str, int]) -> str | None:
    """The first permit of the run that has no room, in the order of the run's permits."""
    return next((name for name, room in spec.permits.items() if holders.get(name, 0) >= room), None)


def hindrances(run: Run, facts: Facts) -> list[Hindrance]:
    """Why the run is not running; empty when nothing keeps it from it, or when it runs or has ended."""
    if run.is_final or run.state in (State.RUNNING, State.CANCELLING):
        return []
    since = run.history[-1].at_ms
    if run.state is State.SCHEDULED:
        what = "it waits to be tried again" if run.attempt else "its time has not come"
        return [Hindrance("not_due", f"{what}: due at {format_instant(run.due_ms)}", since)]
    return [*_of_permits(run, facts, since), *_of_queue(run, facts), *_of_workers(run, facts)]


def _of_permits(run: Run, facts: Facts, since: int) -> list[Hindrance]:
    permit = full_permit(run.spec, facts.holders)
    if permit is None:
        return []
    held, room = facts.holders.get(permit, 0), run.spec.permits[permit]
    kind, _, name = permit.partition("/")
    what = f"the limit '{name}'" if kind == "limit" else f"the concurrency of task '{name}'"
    return [Hindrance("limit", f"{what} is used up: {held} of {room} held by other runs", since)]


def _of_queue(run: Run, facts: Facts) -> list[Hindrance]:
    if run.spec.queue not in facts.paused:
        return []
    return [Hindrance("paused", f"the queue '{run.spec.queue}' is paused: `taskman queues resume {run.spec.queue}`")]


def _of_workers(run: Run, facts: Facts) -> list[Hindrance]:
    able = [worker for worker in facts.workers if serves(worker, run.spec)]
    if not facts.workers:
        return [Hindrance("no_worker", "no worker is connected: start one, or give this server slots with --workers")]
    if not able:
        return [Hindrance("no_worker", f"no worker serves this: {_missing(run.spec, facts.workers)}")]
    able = [worker for worker in able if not worker.draining]
    if not able:
        return [Hindrance("no_worker", "each worker that serves this is draining: `taskman workers resume ID`")]
    if run.spec.place == "any" and all(worker.running >= worker.slots for worker in able):
        detail = f"all {sum(worker.slots for worker in able)} slots that could take it are busy"
        return [Hindrance("no_slot", f"{detail}; {facts.ahead} runs are ahead of it")]
    return []


def _missing(spec: RunSpec, workers: Sequence[Node]) -> str:
    if not any(spec.type in worker.types for worker in workers):
        return f"nobody has the task type '{spec.type}'"
    if not any(worker.queues is None or spec.queue in worker.queues for worker in workers):
        return f"nobody serves the queue '{spec.queue}'"
    for name, value in spec.requires.items():
        if any(_label(worker, name) == value for worker in workers):
            continue
        if name == "worker":
            return f"it may only run on the worker '{value}', which is not connected"
        return f"nobody has the label {name}={value}"
    return "each worker lacks some of its type, queue and labels"
