"""The connection to Redis: one link, shared by every caller in the process, pipelined by nature."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, TypedDict, Unpack

import hiredis
import trio

from ..errors import StoreError, StoreUnavailable
from .dialing import Dialer
from .endpoint import Endpoint
from .link import Link
from .replies import Argument, error_kind, pack
from .scripts import Script

__all__ = ["Connection", "Departure", "error_kind"]


class Departure(TypedDict, total=False):
    """When a command leaves, other than with all that its turn of the event loop brings: see Connection.execute."""

    at_once: bool
    followed: bool


class Connection:
    """Runs commands on Redis for any number of concurrent callers over one link.

    Commands of callers that run in the same turn of the event loop leave in one write. Not for commands
    that block (BLPOP, WAIT …): they would hold up everybody. Pub/sub has its own connection.
    """

    def __init__(self, url: str, *, call_timeout_s: float = 10.0) -> None:
        """Read the URL. Raises: ConfigError that names what is wrong with it."""
        self._call_timeout_s = call_timeout_s
        self._dialer = Dialer(Endpoint.from_url(url, connect_timeout_s=call_timeout_s))
        self._link: _CallLink | None = None
        self.links = 0
        """How many links there have been: another number means that this one is new."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the link for ever: connect, call started(), and reconnect by itself after each loss.

        A link on which nothing came for `call_timeout_s` while answers are owed counts as lost.
        Cancellation: closes the link; calls that wait fail with StoreUnavailable.
        Raises: StoreUnavailable (address, cause, remedy) when the first attempt to connect fails.
        """
        await self._dialer.run(self._adopt, task_status)

    @property
    def connected(self) -> bool:
        """Whether there is a link. Only a call can tell whether Redis answers."""
        return self._link is not None and self._link.lost is None

    def describe(self) -> str:
        """The address without the password."""
        return self._dialer.endpoint.describe()

    async def execute(self, *args: Argument, at_once: bool = False, followed: bool = False) -> Any:
        """Run one command and return its raw reply: bytes, int, list or None.

        `at_once`: it leaves before anything else runs here, and with it what had gathered to leave.
        `followed`: it leaves with what another caller, woken already, is about to send at once, and returns behind it.
        Cancellation: before the command was handed over, nothing happens; after that, its reply is
        discarded and whether it took effect is unknown. The connection is never affected.
        Raises: StoreUnavailable when there is no link, or it is lost before the reply came (outcome
        unknown), or Redis is not ready; StoreError for every other error reply.
        """
        reply = (await self._call(pack(args), 1, at_once=at_once, followed=followed))[0]
        if isinstance(reply, StoreError):
            raise reply
        return reply

    async def execute_many(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Run commands in one write and return their replies in order, errors as StoreError instances.

        Not a transaction: commands of other callers never come between, those of other clients may.
        Cancellation and StoreUnavailable: as for `execute`, for all of them together.
        """
        if not commands:
            await trio.lowlevel.checkpoint()
            return []
        return await self._call(b"".join([pack(tuple(command)) for command in commands]), len(commands))

    async def script(
        self, script: Script, keys: Sequence[Argument], args: Sequence[Argument], **departure: Unpack[Departure]
    ) -> Any:
        """Run a Lua script by its digest, and with its text when Redis does not have it (any more).

        `departure`: as for `execute`.
        Cancellation: as for `execute`; a script runs wholly or not at all.
        Raises: as `execute`. The text is sent only after NOSCRIPT, when the script surely did not run.
        """
        try:
            return await self.execute("EVALSHA", script.sha, len(keys), *keys, *args, **departure)
        except StoreError as error:
            if error_kind(error) != "NOSCRIPT":
                raise
        return await self.execute("EVAL", script.source, len(keys), *keys, *args)

    async def _call(self, packed: bytes, count: int, *, at_once: bool = False, followed: bool = False) -> list[Any]:
        await trio.lowlevel.checkpoint_if_cancelled()
        link = self._link
        if link is None or link.lost is not None:
            await trio.lowlevel.checkpoint()  # a caller that tries again at once must not hog the event loop
            raise StoreUnavailable(self._dialer.trouble)
        call = link.submit(packed, count, followed=followed)
        if at_once:
            link.send_now()
        await trio.lowlevel.wait_task_rescheduled(call.abandon)
        if call.failure is not None:
            raise StoreUnavailable(
                f"The link to Redis at {self.describe()} was lost ({call.failure}); "
                "the outcome of this call is unknown. Taskman reconnects by itself; repeat the call."
            )
        return call.replies

    async def now_ms(self) -> int:
        """Redis' clock, epoch ms. Raises StoreUnavailable."""
        seconds, micros = await self.execute("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def server_id(self) -> str:
        """The id that Redis gives itself at each start. Raises StoreUnavailable."""
        info: bytes = await self.execute("INFO", "server")
        return info.partition(b"run_id:")[2].split(b"\r\n")[0].decode()

    def _adopt(self, stream: trio.abc.Stream) -> Link:
        self.links += 1
        self._link = _CallLink(stream, silence_s=self._call_timeout_s)
        return self._link


class _Call:
    """A caller that waits for `count` replies. Without a task it is abandoned, and its replies are dropped."""

    __slots__ = ("count", "failure", "followed", "replies", "task")

    def __init__(self, task: trio.lowlevel.Task, count: int, *, followed: bool) -> None:
        self.task: trio.lowlevel.Task | None = task
        self.count, self.followed = count, followed
        self.replies: list[Any] = []
        self.failure: str | None = None

    def finish(self) -> None:
        """Everything that it waited for is there: let the caller go on."""
        if self.task is not None:
            trio.lowlevel.reschedule(self.task)

    def abandon(self, _: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED


class _CallLink(Link):
    """Matches replies to calls by their order, which is all that RESP2 offers."""

    def __init__(self, stream: trio.abc.Stream, *, silence_s: float) -> None:
        super().__init__(stream, silence_s=silence_s)
        self._calls: deque[_Call] = deque()
        self._held: list[_Call] = []

    def submit(self, packed: bytes, count: int, *, followed: bool) -> _Call:
        """Queue a command for the current task, which must then wait to be rescheduled."""
        if not self._calls:
            self._quiet_since = trio.current_time()
        call = _Call(trio.lowlevel.current_task(), count, followed=followed)
        self._calls.append(call)
        self.send(packed, followed=followed)
        return call

    def _deliver(self, reply: Any) -> None:
        if not self._calls:
            raise hiredis.ProtocolError("Redis sent a reply that nobody asked for")
        call = self._calls[0]
        call.replies.append(reply)
        if len(call.replies) == call.count:
            self._calls.popleft()
            if call.followed and self._calls:
                self._held.append(call)
            else:
                call.finish()
                self._release_held()

    def _owed(self) -> bool:
        return bool(self._calls)

    def _release(self, cause: str) -> None:
        self._release_held()
        while self._calls:
            call = self._calls.popleft()
            call.failure = cause
            call.finish()

    def _release_held(self) -> None:
        while self._held:
            self._held.pop().finish()
