"""What became of a call, as a message: the same for a call in the worker and for one in a child.

`kind` is `result` (value), `refused` (message), `error` (message), `fatal` (message), `retry` (seconds, message,
result) or `failed` (reason, message, result).
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from taskman import Fatal, RetryAfter

from .finding import Refused
from .frames import Message

__all__ = ["judge", "why_arguments_do_not_fit"]

TEXT_LIMIT = 16 * 1024
_HERE = str(Path(__file__).parent)


def judge(error: BaseException, log: Callable[[str], None]) -> Message:
    """What an exception means for the run. `log` gets the traceback, from the callable's own code on."""
    if isinstance(error, Refused):
        return {"kind": "refused", "message": str(error)}
    cause = _cause(error)
    if isinstance(cause, Fatal):
        return {"kind": "fatal", "message": _text(cause)}
    if isinstance(cause, RetryAfter):
        return {"kind": "retry", "seconds": cause.seconds, "message": _text(cause), "result": cause.result}
    if _is_task_failed(cause):
        failed: Any = cause
        return {"kind": "failed", "reason": failed.reason, "message": _text(cause), "result": failed.result}
    log("".join(traceback.format_exception(type(error), error, _own_part(error.__traceback__))))
    return {"kind": "error", "message": f"{type(cause).__name__}: {_text(cause)}"}


def why_arguments_do_not_fit(function: Callable[..., Any], error: TypeError, message: Message) -> Refused | None:
    """A TypeError that was raised by the call itself, not within the function, put into clearer words."""
    if error.__traceback__ is None or error.__traceback__.tb_next is not None:
        return None
    try:
        inspect.signature(function).bind(*message["args"], **message["kwargs"])
    except TypeError as found:
        signature = inspect.signature(function)
        return Refused(f"the arguments do not fit '{message['callable']}{signature}': {found}")
    except ValueError:  # a function in C that does not tell its signature
        return None
    return None


def _cause(error: BaseException) -> BaseException:
    """The exception itself; of a group the first that says how to go on, else simply the first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [_cause(one) for one in error.exceptions]
    return next((one for one in causes if isinstance(one, (Fatal, RetryAfter))), causes[0])


def _is_task_failed(error: BaseException) -> bool:
    types = sys.modules.get("taskman.tasktypes")  # who raises it has imported it
    return types is not None and isinstance(error, types.TaskFailed)


def _own_part(tb: TracebackType | None) -> TracebackType | None:
    """The traceback without its first frames that are ours or the import system's."""
    while tb is not None and _is_foreign(tb.tb_frame.f_code.co_filename):
        tb = tb.tb_next
    return tb


def _is_foreign(filename: str) -> bool:
    return filename.startswith((_HERE, "<frozen importlib")) or filename.endswith("/importlib/__init__.py")


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # whatever a stranger's exception does
        text = "(its message cannot be read)"
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]}…"
