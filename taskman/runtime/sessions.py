"""Every remote worker that is connected to this server."""

from __future__ import annotations

import logging

import trio

from ..errors import Closing, Conflict, LinkLost, ProtocolViolation, StoreError, TaskmanError
from ..store.store import Store
from . import wire
from .dispatcher import Dispatcher
from .frames import Frames, Peer
from .session import GREETING_S, Session, replaced

__all__ = ["Sessions"]

_REPLACE_S = 5.0
_log = logging.getLogger("taskman.session")


class Sessions:
    """Serves the connections of workers, one session for each worker id."""

    def __init__(self, store: Store, dispatcher: Dispatcher, server: str) -> None:
        """`server` is the name that this server gives itself."""
        self._store, self._dispatcher, self._server = store, dispatcher, server
        self._sessions: dict[str, Session] = {}
        self._is_stopping = False

    async def serve(self, frames: Frames, peer: Peer) -> None:
        """Serve one connection to its end. Never raises but for cancellation, which closes it without a word."""
        try:
            await self._serve(frames, peer)
        except LinkLost:
            return
        except Closing as error:
            await self._close(frames, error.code, error, error.status)
        except ProtocolViolation as error:
            _log.warning("the worker at %s broke the protocol: %s", peer.address, error)
            await self._close(frames, "malformed", error, 1002)
        except Conflict as error:
            _log.warning("a worker at %s was refused: %s", peer.address, error)
            await self._close(frames, "taken", error, 1008)
        except StoreError as error:
            await self._close(frames, "unavailable", error, 1013)

    def stop(self) -> None:
        """Send every worker to another server; who comes later, too."""
        self._is_stopping = True
        for session in list(self._sessions.values()):
            session.end(_stopping())

    async def _serve(self, frames: Frames, peer: Peer) -> None:
        if self._is_stopping:
            raise _stopping()
        hello, more = await self._greeting(frames)
        session = Session(self._store, self._dispatcher, hello, peer, frames)
        try:
            await session.run(self._server, more, self._enter)
        finally:
            if self._sessions.get(session.worker) is session:
                del self._sessions[session.worker]
                _log.info("worker %s at %s is disconnected", session.worker, peer.address)

    async def _greeting(self, frames: Frames) -> tuple[wire.Hello, list[wire.Message]]:
        messages: list[wire.Message] = []
        with trio.move_on_after(GREETING_S):
            while not messages:
                messages = wire.read_from_worker(await frames.receive())
        if not messages:
            raise ProtocolViolation(f"no 'hello' came within {GREETING_S:g} s")
        hello, *more = messages
        if not isinstance(hello, wire.Hello):
            raise ProtocolViolation("the first message of a connection must be 'hello'")
        return hello, more

    async def _enter(self, session: Session) -> None:
        """Let a session take the place of the one before it, which has given back what it could not send by then."""
        before = self._sessions.get(session.worker)
        self._sessions[session.worker] = session
        _log.info("worker %s is connected", session.worker)
        if before is not None:
            before.end(replaced())
            with trio.move_on_after(_REPLACE_S):
                await before.ended.wait()
        if self._is_stopping:
            raise _stopping()

    async def _close(self, frames: Frames, code: str, error: TaskmanError, status: int) -> None:
        try:
            for frame in wire.frames_of([wire.encode(wire.Error(str(error), code))]):
                await frames.send(frame)
        except LinkLost:
            return
        await frames.close(status, code)


def _stopping() -> Closing:
    return Closing("stopping", "this server is stopping: connect again, another one may answer", 1012)
