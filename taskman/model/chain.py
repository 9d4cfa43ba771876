"""Chained tasks: a task that is due when others have ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from .names import Name
from .states import State

__all__ = ["Upstream", "chain_due", "circle_through"]

_WANTED: dict[str, frozenset[State]] = {
    "success": frozenset({State.SUCCEEDED}),
    "failure": frozenset({State.FAILED}),
    "always": frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED}),
}


class Upstream(BaseModel):
    """A task whose end another one waits for; a run that was skipped is no end."""

    model_config = ConfigDict(extra="forbid")

    task: Name
    on: Literal["success", "failure", "always"] = "success"

    def is_met_by(self, state: State) -> bool:
        """Whether a run that ended so counts."""
        return state in _WANTED[self.on]

    def describe(self) -> str:
        """`backup succeeds`, for tables."""
        return f"{self.task} " + {"success": "succeeds", "failure": "fails", "always": "ends"}[self.on]


def chain_due(upstreams: Sequence[Upstream], ended: Mapping[str, tuple[int, State]], since_ms: int) -> int | None:
    """When a chained task became due: the end that completed its set; None while one is missing.

    `ended` is how the last run of each task ended and when; only ends after `since_ms`, the instant that the chain
    was due for last, count, so that each end counts once.
    """
    latest = since_ms
    for upstream in upstreams:
        at_ms, state = ended.get(upstream.task, (since_ms, State.SKIPPED))
        if at_ms <= since_ms or not upstream.is_met_by(state):
            return None
        latest = max(latest, at_ms)
    return latest


def circle_through(name: str, upstreams: Mapping[str, Sequence[str]]) -> list[str] | None:
    """The way from a task back to itself along those it waits for, shortest first; None when there is none.

    `upstreams` names for each task the tasks it waits for. A circle would keep itself going for ever.
    """
    ways, known = [[name]], {name}
    while ways:
        longer = []
        for way in ways:
            for above in upstreams.get(way[-1], ()):
                if above == name:
                    return [*way, name]
                if above not in known:
                    known.add(above)
                    longer.append([*way, above])
        ways = longer
    return None
