"""The hooks that a plugin may implement: synchronous functions that return objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from .tasktypes import TaskType

hookspec = pluggy.HookspecMarker("taskman")
hookimpl = pluggy.HookimplMarker("taskman")


@hookspec
def taskman_task_types() -> list[TaskType]:  # type: ignore[empty-body]
    """The task types that this plugin adds."""
