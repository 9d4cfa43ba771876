"""One client's connection: its requests, its answers, its end.

Hypercorn translates between bytes and ASGI; reading, writing, waiting and ending happen here. Its own connection
class, hypercorn.trio.tcp_server.TCPServer, has these faults under Quart-Trio:

- It shields writes without a bound: one client that stops reading holds up shutdown for ever
  (https://github.com/pgjones/hypercorn/issues/106).
- It does its closing and idle book-keeping in awaits that Quart-Trio cancels half-way, so that idle connections stay
  and `Connection: close` is ignored (https://github.com/pgjones/hypercorn/issues/330). Here both are synchronous.
- It waits without a bound for the app to take notice of a client that has gone.

Plain HTTP/1.1 and WebSocket only: a proxy in front speaks TLS and HTTP/2.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import h11
import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Request
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState, H11SendableEvent
from hypercorn.typing import TaskGroup as HypercornTaskGroup
from hypercorn.utils import parse_socket_addr

from .asgi import App, Message, Receive, Scope, Send, sole_error
from .websocket import Socket, asks_for_websocket

__all__ = ["Limits", "Service"]

log = logging.getLogger("taskman.web")

_PIECE = 64 * 1024
_MESSAGES_WAITING = 10
_FRAMES_WAITING = 2  # these may be large


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a client may take, in seconds, and how much it may send before it makes sense, in bytes.

    `keep_alive_s` exceeds the 60 s that load balancers keep an idle connection, so that theirs ends first.
    `head_s` is for a request's whole head: dripping bytes does not extend it.
    `write_s` is for each 64 KiB that the client has to take; `linger_s` for it to see why it was refused.
    `message_bytes` is for one message of a WebSocket.
    """

    keep_alive_s: float = 75.0
    head_s: float = 10.0
    write_s: float = 20.0
    linger_s: float = 2.0
    head_bytes: int = 64 * 1024
    message_bytes: int = 4 * 1024 * 1024


@dataclass(slots=True)
class Service:
    """What the connections of one `serve` share."""

    app: App
    limits: Limits
    config: HypercornConfig = field(default_factory=HypercornConfig)
    context: WorkerContext = field(default_factory=partial(WorkerContext, None))
    state: dict[str, Any] = field(default_factory=dict)
    connections: set[Connection] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.config.errorlog = None
        self.config.include_server_header = False
        self.config.h11_max_incomplete_size = self.limits.head_bytes
        self.config.websocket_max_message_size = self.limits.message_bytes
        self.config.keep_alive_max_requests = 1_000_000
        self.config.startup_timeout = self.config.shutdown_timeout = 10.0

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one client. Whatever it sends, only its own connection can fail."""
        connection = Connection(self, stream)
        self.connections.add(connection)
        try:
            await connection.run()
        except* OSError as errors:
            log.debug("a connection broke", exc_info=sole_error(errors))
        except* Exception as errors:
            log.error("a connection failed", exc_info=sole_error(errors))
        finally:
            self.connections.discard(connection)

    async def wind_down(self) -> None:
        """Let each connection end with the answer that it is giving; those that give none end now."""
        await self.context.terminated.set()
        for connection in list(self.connections):
            connection.end_if_waiting()


class Connection:
    """One client: its requests are read, the app is run for each, and the answers are written.

    Everything that Hypercorn reports besides bytes is dealt with synchronously: no cancellation can cut it.
    """

    def __init__(self, service: Service, stream: trio.SocketStream) -> None:
        self._service, self._limits, self._stream = service, service.limits, stream
        self._writing = trio.Lock()
        self._reading = trio.CancelScope()
        self._deadline = trio.current_time() + self._limits.head_s
        self._idle = self._lingering = False
        self._credit = _PIECE

    async def run(self) -> None:
        """Serve until either side ends it. Cancellation: at once; an answer under way is cut by a reset."""
        try:
            async with trio.open_nursery() as nursery:
                self._apps = _Apps(nursery)
                self._protocol = self._speak()
                await self._read()
                self._close()
        finally:
            self._stream.socket.close()

    def _speak(self) -> _Http1:
        sock, service = self._stream.socket, self._service
        client = parse_socket_addr(sock.family, sock.getpeername())
        server = parse_socket_addr(sock.family, sock.getsockname())
        apps, state = cast(HypercornTaskGroup, self._apps), ConnectionState(service.state)
        app = cast(AppWrapper, service.app)
        return _Http1(app, service.config, service.context, apps, state, False, client, server, self._send)

    def end_if_waiting(self) -> None:
        """Close unless a request is being answered."""
        if self._deadline < math.inf:
            self._expect_within(-math.inf)

    def _expect_within(self, seconds: float) -> None:
        self._deadline = self._reading.deadline = trio.current_time() + seconds

    async def _read(self) -> None:
        while data := await self._receive():
            if not self._lingering:
                await self._protocol.handle(RawData(data))
        await self._protocol.handle(Closed())

    async def _receive(self) -> bytes:
        data = b""
        with (
            trio.CancelScope(deadline=self._deadline) as self._reading,
            suppress(trio.BrokenResourceError, trio.ClosedResourceError),
        ):
            data = bytes(await self._stream.receive_some(_PIECE))
        if self._idle:
            self._idle = False
            self._expect_within(self._limits.head_s)
        return data

    async def _send(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Updated):
            self._idle = event.idle
            self._expect_within(self._limits.keep_alive_s if event.idle else math.inf)
        elif isinstance(event, Closed):
            self._hang_up()

    async def _write(self, data: bytes) -> None:
        # Never shielded. Half an answer leaves a stream of bytes that nobody can make sense of: hence the resets.
        if self._lingering:
            return await trio.lowlevel.checkpoint()
        data = self._write_at_once(data)
        if not data:
            return None
        self._credit = _PIECE
        try:
            async with self._writing:
                for start in range(0, len(data), _PIECE):
                    with trio.fail_after(self._limits.write_s):
                        await self._stream.send_all(data[start : start + _PIECE])
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._close()
            await trio.lowlevel.checkpoint()  # an app that writes on regardless must not stop the loop
        except trio.TooSlowError:
            self._reset()
        except trio.Cancelled:
            self._reset()
            raise

    def _write_at_once(self, data: bytes) -> bytes:
        """Hand to the kernel what it takes without a turn of the event loop; what is left to be written.

        Now and then that is all of it: an app that writes without end to a fast client must let others have a turn.
        """
        self._credit -= len(data)
        if self._credit < 0 or self._writing.locked():
            return data
        try:
            return data[os.write(self._stream.socket.fileno(), data) :]
        except OSError:  # to wait for its buffer, or to be told that it is gone
            return data

    def _hang_up(self) -> None:
        if self._protocol.answer_is_cut:
            self._reset()
        elif self._protocol.request_is_unread and not self._lingering:
            self._linger()
        elif not self._lingering:
            self._close()

    def _linger(self) -> None:
        # Closing over unread bytes sends a reset, which can overtake the answer: a client that is told "too large"
        # while it still uploads would never see that. So: an end of ours, and its bytes are thrown away for a while.
        self._lingering, self._idle = True, False
        with suppress(OSError):
            self._stream.socket.shutdown(socket.SHUT_WR)
        self._apps.disconnect()
        self._expect_within(self._limits.linger_s)

    def _reset(self) -> None:
        # After plain close() the kernel would go on offering what is buffered, and then end as if all were well.
        with suppress(OSError):
            self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._close()

    def _close(self) -> None:
        self._stream.socket.close()
        self._apps.disconnect()


class _Http1(H11Protocol):
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


class _Apps:
    """Runs the app for each request of a connection, in place of hypercorn.trio.task_group.TaskGroup."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._mailbox: _Mailbox | None = None

    async def spawn_app(self, app: App, _: HypercornConfig, scope: Scope, send: Any) -> Send:
        room = _MESSAGES_WAITING if scope["type"] == "http" else _FRAMES_WAITING
        self._mailbox = _Mailbox({"type": f"{scope['type']}.disconnect", "code": 1006}, room)
        self._nursery.start_soon(_answer, app, scope, self._mailbox.receive, send)
        return self._mailbox.put

    def spawn(self, work: Callable[..., Awaitable[None]], *args: Any) -> None:
        self._nursery.start_soon(work, *args)

    def disconnect(self) -> None:
        """Tell the app, if one runs, that its client has gone."""
        if self._mailbox is not None:
            self._mailbox.close()


async def _answer(app: App, scope: Scope, receive: Receive, send: Callable[[Any], Awaitable[None]]) -> None:
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
