"""Taskman: tasks now, later and on schedules, on one machine or on thousands, watched live.

This module is what plugin authors use. Names are imported at first use, so that the command line stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import Fatal, RetryAfter, TaskmanError
    from .hookspecs import hookimpl
    from .model.validation import Duration
    from .tasktypes import ProcessResult, TaskContext, TaskFailed, TaskType

__all__ = [
    "Duration",
    "Fatal",
    "ProcessResult",
    "RetryAfter",
    "TaskContext",
    "TaskFailed",
    "TaskType",
    "TaskmanError",
    "__version__",
    "hookimpl",
]
__version__ = "0.1.0"

_HOME = {
    **dict.fromkeys(("Fatal", "RetryAfter", "TaskmanError"), ".errors"),
    **dict.fromkeys(("ProcessResult", "TaskContext", "TaskFailed", "TaskType"), ".tasktypes"),
    "Duration": ".model.validation",
    "hookimpl": ".hookspecs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'taskman' has no attribute '{name}'")
    return getattr(import_module(_HOME[name], __name__), name)
