"""The hooks that a plugin may implement: synchronous functions that return objects. docs/plugins.md has examples."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from .tasktypes import TaskType

__all__ = [
    "hookimpl",
    "hookspec",
    "taskman_nav_items",
    "taskman_routes",
    "taskman_run_finished",
    "taskman_task_types",
    "taskman_template_dirs",
]

hookspec = pluggy.HookspecMarker("taskman")
hookimpl = pluggy.HookimplMarker("taskman")


@hookspec
def taskman_task_types() -> Sequence[TaskType]:  # type: ignore[empty-body]
    """The task types that this plugin adds: instances, each of a name that nobody else has. Called once."""


@hookspec
def taskman_run_finished(run: dict[str, Any]) -> None:
    """A run is over: `run` is its document, as `GET /runs/{id}` shows it.

    Called in a thread of its own, one run at a time, at most once for each run whatever the number of servers. What
    it raises is logged and changes nothing.
    """


@hookspec
def taskman_template_dirs() -> Sequence[str | PathLike[str]]:  # type: ignore[empty-body]
    """Directories of Jinja templates, searched before ours; `taskman/NAME` is always ours, to extend. Called once."""


@hookspec
def taskman_nav_items() -> Sequence[tuple[str, str]]:  # type: ignore[empty-body]
    """Entries for the navigation: (label, path) each, such as ("Greetings", "/greetings"). Called once."""


@hookspec
def taskman_routes(app: Any) -> None:
    """Register pages or API addresses on the Quart application; only who is signed in can reach them. Called once."""
