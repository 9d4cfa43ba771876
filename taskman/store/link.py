"""One live link to Redis, from greeting to loss."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Final

import hiredis
import trio

from .replies import INCOMPLETE, new_reader
from .stream import DirectStream

__all__ = ["Link"]

_CHUNK: Final = 65536


class LinkSilent(Exception):
    """Redis owes an answer and nothing comes."""


_LOSSES: Final = (
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    OSError,
    hiredis.ProtocolError,
    LinkSilent,
)


class Link(ABC):
    """A stream with one task that writes, one that reads, and one that notices when nothing comes.

    A link is used once: after a loss, another takes its place, so that no reply of the old one can be
    taken for a reply of the new one. `lost` says why it ended, and is None while it lives.
    """

    def __init__(self, stream: trio.abc.Stream, *, silence_s: float) -> None:
        self.lost: str | None = None
        self._stream = stream
        self._silence_s = silence_s
        self._quiet_since = trio.current_time()
        self._outgoing: list[bytes] = []
        self._is_writing = self._is_followed = False
        self._idle_writer: trio.lowlevel.Task | None = None

    async def run(self) -> None:
        """Carry bytes both ways until the link is lost; then whoever waits is told, and the stream closed.

        Cancellation: the same, at once.
        """
        try:
            async with trio.open_nursery() as nursery:
                for part in self._parts():
                    nursery.start_soon(self._until_lost, part, nursery.cancel_scope)
        finally:
            # Without an await before it: also when a part of the link crashed, nobody is left waiting.
            self.lost = self.lost or "the link was closed"
            self._release(self.lost)
            await trio.aclose_forcefully(self._stream)

    def send(self, packed: bytes, *, followed: bool = False) -> None:
        """Have `packed` written together with all else that gathers until the writer's next turn.

        `followed`: more is about to come that shall leave with it; the writer waits a turn of the event loop for that.
        """
        self._outgoing.append(packed)
        self._is_followed = followed
        if self._idle_writer is not None:
            trio.lowlevel.reschedule(self._idle_writer)
            self._idle_writer = None

    def send_now(self) -> None:
        """Write what has gathered at once, as far as the socket takes it: the writer comes behind all that can run."""
        if self._is_writing or not self._outgoing or not isinstance(self._stream, DirectStream):
            return
        data = b"".join(self._outgoing)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # the writer finds that, too
            data = data[self._stream.send_now(data) :]
        self._outgoing[:] = [data] if data else []

    @abstractmethod
    def _deliver(self, reply: Any) -> None:
        """Take the next reply. Raises hiredis.ProtocolError when it cannot be one to what was sent."""

    @abstractmethod
    def _owed(self) -> bool:
        """Whether Redis owes an answer."""

    @abstractmethod
    def _release(self, cause: str) -> None:
        """Tell all who wait that the link is lost. Must not wait for anything."""

    def _parts(self) -> list[Callable[[], Awaitable[None]]]:
        return [self._read, self._write, self._listen_for_silence]

    async def _until_lost(self, part: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
        try:
            await part()
        except _LOSSES as error:
            self.lost = self.lost or _describe(error)
            scope.cancel()

    async def _read(self) -> None:
        reader = new_reader()
        while data := await self._stream.receive_some(_CHUNK):
            self._quiet_since = trio.current_time()
            reader.feed(bytes(data))
            while (reply := reader.gets()) is not INCOMPLETE:
                self._deliver(reply)
        raise trio.BrokenResourceError("Redis closed the connection")

    async def _write(self) -> None:
        while True:
            if not self._outgoing:
                self._idle_writer = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._stop_writing)
            if self._is_followed:
                self._is_followed = False
                await trio.lowlevel.checkpoint()
            if data := b"".join(self._outgoing):  # unless it has left at once
                self._outgoing.clear()
                self._is_writing = True
                await self._stream.send_all(data)
                self._is_writing = False

    def _stop_writing(self, _: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        self._idle_writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def _listen_for_silence(self) -> None:
        while True:
            since = self._quiet_since if self._owed() else trio.current_time()
            await trio.sleep_until(since + self._silence_s)
            # After a stop of our own process the answer may be there unread: the reader comes first.
            await trio.lowlevel.checkpoint()
            if self._owed() and trio.current_time() >= self._quiet_since + self._silence_s:
                raise LinkSilent(f"no answer for {self._silence_s:g} s")


def _describe(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return text[:1].lower() + text[1:] if not text.startswith("Redis") else text
