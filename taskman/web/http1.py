"""HTTP/1.1 and WebSocket for one connection: between its bytes and the app, in Hypercorn's words."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import h11
import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Request
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.typing import H11SendableEvent

from .asgi import App, Message, Receive, Scope, Send, sole_error
from .websocket import Socket, asks_for_websocket

__all__ = ["Apps", "Http1", "answer"]

log = logging.getLogger("taskman.web")

_MESSAGES_WAITING = 10
_FRAMES_WAITING = 2  # these may be large


class Http1(H11Protocol):
    """HTTP/1.1 and WebSocket, and no changing to HTTP/2 in the clear.

    Proxies that pass `Upgrade: h2c` on would carry whatever follows past their own rules.
    """

    _held = b""
    _body_is_suppressed = False
    _socket: Socket | None = None

    @property
    def answer_is_cut(self) -> bool:
        return self.connection.our_state in (h11.SEND_BODY, h11.ERROR)

    @property
    def request_is_unread(self) -> bool:
        if self._socket is not None:
            return self._socket.awaits_close
        return self.connection.their_state in (h11.SEND_BODY, h11.ERROR)

    @property
    def is_between_requests(self) -> bool:
        """Whether what comes next is the first of a request."""
        return self._socket is None and self.connection.their_state is h11.IDLE and not self.connection.trailing_data[0]

    async def handle(self, event: Event) -> None:
        # Hypercorn says 400 to a bad handshake, then waits for ever; to data before its answer it may say two things.
        stream = self.stream
        if isinstance(event, RawData) and isinstance(stream, Socket) and not stream.handshake.accepted:
            stream.closed = True
        else:
            await super().handle(event)
        if isinstance(self.stream, Socket) and self.stream.closed:
            await self.send(Closed())

    async def _check_protocol(self, event: h11.Request) -> None:
        """Hypercorn changes to HTTP/2 here. We do not: an upgrade may be ignored, the answer is HTTP/1.1."""

    async def _create_stream(self, request: h11.Request) -> None:
        if request.http_version > b"1.1":
            await self._refuse(505)
            return
        self._body_is_suppressed = request.method == b"HEAD"
        try:
            if asks_for_websocket(request):
                await self._open_websocket(request)
            else:
                await super()._create_stream(request)
        except UnicodeError:  # in the target, or in a header of a WebSocket's handshake
            await self._refuse(400)
        if isinstance(self.connection, H11WSConnection) and self.connection.buffer and self.stream is not None:
            self.connection.buffer.clear()
            self.stream.closed = True

    async def _open_websocket(self, request: h11.Request) -> None:
        self._socket = Socket(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        self.stream, self.connection = self._socket, H11WSConnection(cast(h11.Connection, self.connection))
        opening = Request(
            stream_id=STREAM_ID,
            headers=list(request.headers),
            http_version=request.http_version.decode(),
            method="GET",
            raw_path=request.target,
            state=self.connection_state,
        )
        await self._socket.handle(opening)

    async def _refuse(self, status: int) -> None:
        self.stream = None
        await self._send_error_response(status)
        await self.send(Closed())

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        # The head waits for the first piece of the body: one packet and one system call instead of two.
        if isinstance(event, h11.Response) and self.connection.their_state is h11.SEND_BODY:
            event = _farewell(event)
        try:
            self._held += self.connection.send(event) or b""
        except h11.LocalProtocolError:
            if self.connection.their_state is not h11.ERROR:
                raise
            return
        if isinstance(event, h11.Response) and not self._body_is_suppressed:
            return
        data, self._held = self._held, b""
        if data:
            await self.send(RawData(data))


def _farewell(answer: h11.Response) -> h11.Response:
    """An answer that comes before the end of its request, which ends the connection: its client shall know."""
    headers = [(name, value) for name, value in answer.headers if name != b"connection"]
    return h11.Response(status_code=answer.status_code, headers=[*headers, (b"connection", b"close")])


class Apps:
    """Runs the app for each request of a connection, in place of hypercorn.trio.task_group.TaskGroup."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._mailbox: _Mailbox | None = None

    async def spawn_app(self, app: App, _: HypercornConfig, scope: Scope, send: Any) -> Send:
        room = _MESSAGES_WAITING if scope["type"] == "http" else _FRAMES_WAITING
        self._mailbox = _Mailbox({"type": f"{scope['type']}.disconnect", "code": 1006}, room)
        self._nursery.start_soon(answer, app, scope, self._mailbox.receive, send)
        return self._mailbox.put

    def spawn(self, work: Callable[..., Awaitable[None]], *args: Any) -> None:
        self._nursery.start_soon(work, *args)

    def disconnect(self) -> None:
        """Tell the app, if one runs, that its client has gone."""
        if self._mailbox is not None:
            self._mailbox.close()


async def answer(app: App, scope: Scope, receive: Receive, send: Callable[[Any], Awaitable[None]]) -> None:
    """Run the app for one request; `send` gets None at its end."""
    try:
        await app(scope, receive, send)
    except* Exception as errors:
        what = f"{scope.get('method', 'WebSocket')} {scope['path']}"
        log.error("the app failed at %s", what, exc_info=sole_error(errors))
    finally:
        await send(None)


class _Mailbox:
    """A client's messages on their way to the app: few at a time, but the news that it has gone never waits."""

    def __init__(self, farewell: Message, room: int) -> None:
        self._farewell = farewell
        self._put, self._take = trio.open_memory_channel[Message](room)

    async def put(self, message: Message) -> None:
        if message["type"] == self._farewell["type"]:
            self._farewell = message
            self.close()
        else:
            with suppress(trio.ClosedResourceError):  # the app has ended without reading everything
                try:
                    self._put.send_nowait(message)
                except trio.WouldBlock:
                    await self._put.send(message)

    async def receive(self) -> Message:
        try:
            return await self._take.receive()
        except trio.EndOfChannel:
            await trio.lowlevel.checkpoint()
            return self._farewell

    def close(self) -> None:
        self._put.close()
