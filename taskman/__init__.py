"""Taskman: tasks now, later and on schedules, on one machine or on thousands, watched live.

This module is what plugin authors, users of the SDK and authors of functions for the `python` type import. Names are
fetched at first use, so that the command line stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .answers import LogLine, Run, Submitted
    from .async_client import AsyncClient
    from .callables import Submittable, current, task, use_context
    from .client import Client
    from .errors import (
        ClientError,
        ConfigError,
        Conflict,
        Fatal,
        Forbidden,
        InvalidInput,
        NotFound,
        QueueFull,
        RequestRefused,
        RetryAfter,
        ServerUnreachable,
        ServerUntrusted,
        TaskmanError,
        Unauthenticated,
        WaitTimedOut,
    )
    from .hookspecs import hookimpl
    from .model.validation import Duration
    from .tasktypes import HeldProcess, ProcessResult, TaskContext, TaskFailed, TaskType, WorkerContext

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "ConfigError",
    "Conflict",
    "Duration",
    "Fatal",
    "Forbidden",
    "HeldProcess",
    "InvalidInput",
    "LogLine",
    "NotFound",
    "ProcessResult",
    "QueueFull",
    "RequestRefused",
    "RetryAfter",
    "Run",
    "ServerUnreachable",
    "ServerUntrusted",
    "Submittable",
    "Submitted",
    "TaskContext",
    "TaskFailed",
    "TaskType",
    "TaskmanError",
    "Unauthenticated",
    "WaitTimedOut",
    "WorkerContext",
    "__version__",
    "current",
    "hookimpl",
    "task",
    "use_context",
]
__version__ = "0.1.0"

_HOMES = {
    ".answers": ("LogLine", "Run", "Submitted"),
    ".async_client": ("AsyncClient",),
    ".callables": ("Submittable", "current", "task", "use_context"),
    ".client": ("Client",),
    ".errors": (
        "ClientError",
        "ConfigError",
        "Conflict",
        "Fatal",
        "Forbidden",
        "InvalidInput",
        "NotFound",
        "QueueFull",
        "RequestRefused",
        "RetryAfter",
        "ServerUnreachable",
        "ServerUntrusted",
        "TaskmanError",
        "Unauthenticated",
        "WaitTimedOut",
    ),
    ".hookspecs": ("hookimpl",),
    ".model.validation": ("Duration",),
    ".tasktypes": ("HeldProcess", "ProcessResult", "TaskContext", "TaskFailed", "TaskType", "WorkerContext"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'taskman' has no attribute '{name}'")
    return getattr(import_module(_HOME[name], __name__), name)
