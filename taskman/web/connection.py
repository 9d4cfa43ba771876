"""One client's connection: its requests, its answers, its end.

Hypercorn translates between bytes and ASGI, but for the plainest of requests (plain.py); reading, writing, waiting and
ending happen here. Its own connection class, hypercorn.trio.tcp_server.TCPServer, has these faults under Quart-Trio:

- It shields writes without a bound: one client that stops reading holds up shutdown for ever
  (https://github.com/pgjones/hypercorn/issues/106).
- It does its closing and idle book-keeping in awaits that Quart-Trio cancels half-way, so that idle connections stay
  and `Connection: close` is ignored (https://github.com/pgjones/hypercorn/issues/330). Here both are synchronous.
- It waits without a bound for the app to take notice of a client that has gone.

Plain HTTP/1.1 and WebSocket only: a proxy in front speaks TLS and HTTP/2.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import socket
import struct
import termios
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.typing import TaskGroup as HypercornTaskGroup
from hypercorn.utils import parse_socket_addr

from .asgi import App, Message, sole_error
from .http1 import Apps, Http1, answer
from .plain import PlainAnswer, PlainRequest, read_plain

__all__ = ["Limits", "Service"]

log = logging.getLogger("taskman.web")

_PIECE = 64 * 1024
_SOON_S = 0.05


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
                self._apps = Apps(nursery)
                self._protocol = self._speak()
                await self._read()
                self._close()
        finally:
            self._stream.socket.close()

    def _speak(self) -> Http1:
        sock, service = self._stream.socket, self._service
        client = parse_socket_addr(sock.family, sock.getpeername())
        server = parse_socket_addr(sock.family, sock.getsockname())
        apps, state = cast(HypercornTaskGroup, self._apps), ConnectionState(service.state)
        app = cast(AppWrapper, service.app)
        return Http1(app, service.config, service.context, apps, state, False, client, server, self._send)

    def end_if_waiting(self) -> None:
        """Close unless a request is being answered."""
        if self._deadline < math.inf:
            self._expect_within(-math.inf)

    def _expect_within(self, seconds: float) -> None:
        self._deadline = self._reading.deadline = trio.current_time() + seconds

    async def _read(self) -> None:
        while data := await self._receive():
            if self._lingering:
                continue
            request = read_plain(data) if self._protocol.is_between_requests else None
            if request is not None and request.missing:
                data += await self._rest_of(request)
            if request is not None and not request.missing:
                await self._answer(request)
            else:
                await self._protocol.handle(RawData(data))
        await self._protocol.handle(Closed())

    async def _rest_of(self, request: PlainRequest) -> bytes:
        """Wait a moment for the rest of its body: many clients send that apart from its head."""
        came = b""
        with trio.move_on_after(_SOON_S):
            while request.missing > 0 and (data := await self._receive()):
                came += data
                request.take(data)
        return came

    async def _answer(self, request: PlainRequest) -> None:
        reply = PlainAnswer()

        async def send(message: Message | None) -> None:
            if data := reply.encode(message):
                await self._write(data)
            if reply.is_complete:
                request.end()

        self._expect_within(math.inf)
        service, protocol = self._service, self._protocol
        scope = request.scope(protocol.client, protocol.server, service.state.copy())
        try:
            await answer(service.app, scope, request.receive, send)
        finally:
            if not reply.is_complete:
                self._reset()
        if reply.closes or service.context.terminated.is_set():
            self._part()
        else:
            self._idle = True
            self._expect_within(self._limits.keep_alive_s)

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

    def _part(self) -> None:
        """Close behind an answer during which nothing was read."""
        unread = fcntl.ioctl(self._stream.socket.fileno(), termios.FIONREAD, bytes(4)) if self._is_open else bytes(4)
        if any(unread):
            self._linger()
        else:
            self._close()

    @property
    def _is_open(self) -> bool:
        return self._stream.socket.fileno() >= 0

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
