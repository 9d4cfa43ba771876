"""Every exception of Taskman.

TaskmanError
├── ConfigError              a setting is unusable
├── InvalidInput             what a caller sent is wrong; lists every fault at once
├── NotFound                 no run, task or task type of that name
├── Conflict                 the thing exists, but its state forbids the request
├── QueueFull                the queue holds as many runs as it may
├── Unauthenticated          no valid token or session came with the request
├── Forbidden                signed in, but not allowed
├── StoreError
│   ├── StoreUnavailable     Redis cannot be reached, or did not answer
│   └── StoreUnsuitable      Redis was reached, but is not fit to keep runs in
├── PluginError              a plugin broke its contract
├── ShimLost                 what holds a process tree died before the tree did
├── LeaseEnded               the lease of a run came to its end, and so did its processes
├── LinkLost                 the connection between a worker and a server is gone
├── ProtocolViolation        the other side of such a connection breaks its protocol
├── Closing                  the server ends such a connection, and says why
├── ClientError              the SDK or the CLI failed to get an answer
│   ├── ServerUnreachable    nothing answers at the server's address
│   │   └── ServerUntrusted  something answers, but its certificate does not pass
│   ├── RequestRefused       the server refused for a reason that has no exception of its own
│   └── WaitTimedOut         the run is not final, and the time to wait for it is over
├── Fatal                    raised by a task: fail, and do not retry
└── RetryAfter               raised by a task: try again after so many seconds
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = [
    "ClientError",
    "Closing",
    "ConfigError",
    "Conflict",
    "Fatal",
    "Fault",
    "Forbidden",
    "InvalidInput",
    "LeaseEnded",
    "LinkLost",
    "NotFound",
    "PluginError",
    "ProtocolViolation",
    "QueueFull",
    "RequestRefused",
    "RetryAfter",
    "ServerUnreachable",
    "ServerUntrusted",
    "ShimLost",
    "StoreError",
    "StoreUnavailable",
    "StoreUnsuitable",
    "TaskmanError",
    "Unauthenticated",
    "WaitTimedOut",
    "nearest",
    "sole",
]


_YEAR_S = 366 * 86_400


class TaskmanError(Exception):
    """Something went wrong in Taskman. See the log of the server for details."""

    code = "error"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").partition("\n")[0])


class ConfigError(TaskmanError):
    """A setting is unusable. Run `taskman config list` to see every setting and its default."""

    code = "config"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with an input: where (a JSON pointer such as `/schedules/0/cron`) and what to do."""

    pointer: str
    detail: str


class InvalidInput(TaskmanError):
    """The input is wrong. Each fault names the field and the remedy."""

    code = "invalid_input"

    def __init__(self, faults: Iterable[Fault] | str, pointer: str = "") -> None:
        self.faults = [Fault(pointer, faults)] if isinstance(faults, str) else list(faults)
        super().__init__("; ".join(f"{f.pointer}: {f.detail}" if f.pointer else f.detail for f in self.faults))

    def under(self, prefix: str) -> InvalidInput:
        """The same faults, with their pointers below `prefix`."""
        return InvalidInput(Fault(prefix + fault.pointer, fault.detail) for fault in self.faults)


class NotFound(TaskmanError):
    """There is nothing of that name. Check the spelling, or list what there is."""

    code = "not_found"


class Conflict(TaskmanError):
    """The state of the thing forbids the request. Look at it again, then repeat what still makes sense."""

    code = "conflict"


class QueueFull(TaskmanError):
    """The queue holds as many runs as it may. Send it again later, or raise TASKMAN_QUEUE_LIMIT."""

    code = "queue_full"


class Unauthenticated(TaskmanError):
    """Sign in, or send a token: `Authorization: Bearer tm_…`."""

    code = "unauthenticated"


class Forbidden(TaskmanError):
    """This token or session may not do that; `scope` is the one that it would need, if that is the reason."""

    code = "forbidden"

    def __init__(self, message: str | None = None, *, scope: str | None = None) -> None:
        self.scope = scope
        super().__init__(message)


class StoreError(TaskmanError):
    """Redis refused a command."""

    code = "store"


class StoreUnavailable(StoreError):
    """Redis cannot be reached. Start it, or correct TASKMAN_REDIS_URL; Taskman reconnects by itself."""

    code = "store_unavailable"


class StoreUnsuitable(StoreError):
    """This Redis is not fit to keep runs in."""

    code = "store_unsuitable"


class PluginError(TaskmanError):
    """A plugin broke its contract."""

    code = "plugin"


class ShimLost(TaskmanError):
    """The shim of a process tree was lost before the tree was gone; how the tree ended is not known."""

    code = "shim_lost"


class LeaseEnded(TaskmanError):
    """The lease of the run was not renewed in time: its processes were ended before another worker could start it."""

    code = "lease_ended"


class LinkLost(TaskmanError):
    """The connection between the worker and the server is gone."""

    code = "link_lost"


class ProtocolViolation(TaskmanError):
    """The other side breaks the worker protocol. See docs/worker-protocol.md."""

    code = "malformed"


class Closing(TaskmanError):
    """The server ends the connection of a worker; `code` is for the worker, `status` for the WebSocket."""

    def __init__(self, code: str, detail: str, status: int) -> None:
        super().__init__(detail)
        self.code, self.status = code, status


class ClientError(TaskmanError):
    """The request did not succeed."""

    code = "client"


class ServerUnreachable(ClientError):
    """No Taskman server answers there. Start one with `taskman up`, or set TASKMAN_SERVER.

    `is_lost_reply`: the request may have arrived, only the answer to it was lost.
    """

    code = "unreachable"

    def __init__(self, message: str | None = None, *, is_lost_reply: bool = False) -> None:
        self.is_lost_reply = is_lost_reply
        super().__init__(message)


class ServerUntrusted(ServerUnreachable):
    """The server's certificate does not pass. Set TASKMAN_CA_FILE to a file with the certificate of its authority."""

    code = "untrusted"


class RequestRefused(ClientError):
    """The server refused the request; `status`, `code` and `faults` say why."""

    def __init__(self, status: int, code: str, detail: str, faults: Iterable[Fault] = ()) -> None:
        self.status, self.code, self.faults = status, code, list(faults)
        super().__init__(detail)


class WaitTimedOut(ClientError):
    """The run is not final yet. It goes on; wait for it again, or cancel it."""

    code = "wait_timed_out"


class Fatal(TaskmanError):
    """The task says that trying again is useless."""

    code = "fatal"


class RetryAfter(TaskmanError):
    """The task asks to be tried again after `seconds`, a year at most."""

    code = "retry_after"
    seconds: float = 0.0
    result: Any = None

    def __init__(self, seconds: float, message: str | None = None, result: Any = None) -> None:
        """`result` is what is worth keeping of this attempt. Raises ValueError for what is no such time."""
        if not 0 <= seconds <= _YEAR_S:
            raise ValueError(f"RetryAfter takes seconds from 0 to {_YEAR_S:,}, not {seconds!r}")
        self.seconds, self.result = seconds, result
        super().__init__(message or f"try again after {seconds:g} s")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as `; did you mean 'shell'?` when `name` is close to one of `known`, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def sole(error: BaseException) -> BaseException:
    """The one exception inside groups of one, as a nursery wraps it; else `error` itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
