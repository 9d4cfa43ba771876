"""RESP2: commands to bytes, bytes to replies, error replies to exceptions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis

from ..errors import StoreError, StoreUnavailable

__all__ = ["INCOMPLETE", "Argument", "checked", "error_kind", "new_reader", "pack"]

Argument = bytes | str | int | float

# The stub calls it a function of a 1-tuple. Refuses bool and None with TypeError, before anything is sent.
pack: Final = cast(Callable[[tuple[Argument, ...]], bytes], hiredis.pack_command)

# What a reader gives while a reply is not complete; None and False could be mistaken for replies.
INCOMPLETE: Final = object()

# Redis did not run the command, for a reason that passes by itself, with the next reconnection, or (MISCONF: it cannot
# write to its disk; NOREPLICAS) when somebody has put Redis right. Not OOM: then transitions still pass.
_UNAVAILABLE: Final = frozenset({"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "READONLY"})

# Redis 6.2 wraps what a script's command ran into: "ERR Error running script (call to f_…): @user_script:1:
# @user_script: 1: -OOM command not allowed …". Redis 7 begins with the code itself.
_WRAPPED: Final = re.compile(r"@user_script:\d+: (?:@user_script: \d+: )?-?([A-Z]{2,}) ")


def new_reader() -> hiredis.Reader:
    """A parser of replies: bytes, int, list, None, or a StoreError instance for an error reply."""
    return hiredis.Reader(replyError=_to_error, notEnoughData=INCOMPLETE)


def checked(reply: Any) -> Any:
    """A reply of `execute_many`, where errors stand among the others; raises the StoreError that it is."""
    if isinstance(reply, StoreError):
        raise reply
    return reply


def error_kind(error: StoreError) -> str:
    """The code that Redis put in front of an error reply, such as OOM, NOSCRIPT or WRONGTYPE.

    Looks through the wrapping that Redis 6.2 puts around an error of a script's command.
    """
    text = str(error)
    if text.startswith("ERR ") and (wrapped := _WRAPPED.search(text)):
        return wrapped[1]
    return text.partition(" ")[0]


def _to_error(message: str) -> Any:
    error = StoreError(message)
    return StoreUnavailable(message) if error_kind(error) in _UNAVAILABLE else error
