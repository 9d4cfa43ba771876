"""The states of runs as people filter by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from ...model.states import State

__all__ = ["FACETS", "Facet", "runs_path"]


@dataclass(frozen=True, slots=True)
class Facet:
    """Some states under one word; `icon` is that of the most typical one."""

    word: str
    states: tuple[State, ...]
    icon: str
    is_tile: bool = True

    @property
    def href(self) -> str:
        return runs_path(self.states if self.icon != "runs" else ())


FACETS = (
    Facet("All", tuple(State), "runs", is_tile=False),
    Facet("Running", (State.RUNNING, State.CANCELLING), "running"),
    Facet("Waiting", (State.QUEUED, State.SCHEDULED, State.BLOCKED), "queued"),
    Facet("Succeeded", (State.SUCCEEDED,), "succeeded"),
    Facet("Failed", (State.FAILED,), "failed"),
    Facet("Cancelled", (State.CANCELLED,), "cancelled"),
    Facet("Skipped", (State.SKIPPED,), "skipped", is_tile=False),
)


def runs_path(
    states: Sequence[State] = (), task: str | None = None, cursor: str | None = None, parent: str | None = None
) -> str:
    """The address of the list of runs with these filters."""
    query: list[tuple[str, str]] = [("state", state) for state in states]
    query += [(name, value) for name, value in (("task", task), ("parent", parent), ("cursor", cursor)) if value]
    return "/runs?" + urlencode(query) if query else "/runs"
