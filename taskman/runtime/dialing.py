"""Opening the WebSocket of a remote worker to a server."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import trio
import trio_websocket

from ..errors import (
    ConfigError,
    Forbidden,
    LinkLost,
    ProtocolViolation,
    RequestRefused,
    ServerUnreachable,
    ServerUntrusted,
    Unauthenticated,
    sole,
)
from ..trust import distrust, trusting
from .frames import Frames
from .wire import LARGEST_BYTES

__all__ = ["Server"]

PATH = "/api/v1/worker"
SUBPROTOCOL = "taskman.v1"
CONNECT_S = 10.0
CLOSE_S = 2.0
DEAD_PEER_MS = 20_000
_BUFFER = 65536
_FAILURES = (OSError, trio.TooSlowError, trio.BrokenResourceError, trio_websocket.HandshakeError)
# What is in front of a server may answer in its place while it is away.
_PASSING = frozenset({429, 500, 502, 503, 504})
logging.getLogger("trio-websocket").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Server:
    """Where to connect: `url` is the base URL, http or https. `ca_file`: see taskman.trust."""

    url: str
    token: str
    agent: str
    ca_file: str = ""

    @asynccontextmanager
    async def dial(self) -> AsyncIterator[Frames]:
        """A connection for the block. Raises: ServerUnreachable; ServerUntrusted before any token is sent;
        Unauthenticated, Forbidden or RequestRefused with what the server said.

        At the end it is closed without waiting for the other side to agree.
        """
        try:
            async with trio.open_nursery() as nursery:
                stream: trio.abc.Stream | None = None
                try:
                    with trio.fail_after(CONNECT_S):
                        stream = await self._connect()
                        connection = await self._upgrade(nursery, stream)
                    yield _Frames(connection)
                finally:
                    if stream is not None:  # before the cancellation, which would take the place of any error here
                        await trio.aclose_forcefully(stream)
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:  # a rejection comes from the task that reads
            raise self._told(sole(group)) from None

    async def _connect(self) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        is_secure = parts.scheme == "https"
        stream = await trio.open_tcp_stream(host, parts.port or (443 if is_secure else 80))
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_MS)
        if not is_secure:
            return stream
        try:
            return await self._secured(stream, host)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise

    async def _secured(self, stream: trio.SocketStream, host: str) -> trio.SSLStream[trio.SocketStream]:
        try:  # anew each time, so that authorities that were changed count
            context = await trio.to_thread.run_sync(trusting, self.ca_file)
        except ConfigError as error:
            raise ServerUntrusted(str(error)) from None
        secure = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
        await secure.do_handshake()
        return secure

    async def _upgrade(
        self, nursery: trio.Nursery, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]
    ) -> trio_websocket.WebSocketConnection:
        parts = urlsplit(self.url)
        return await trio_websocket.wrap_client_stream(
            nursery,
            stream,
            parts.netloc,
            parts.path + PATH,
            subprotocols=[SUBPROTOCOL],
            extra_headers=self._headers(),
            message_queue_size=4,
            max_message_size=LARGEST_BYTES,
            receive_buffer_size=_BUFFER,
        )

    def _headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"Authorization", f"Bearer {self.token}".encode()), (b"User-Agent", self.agent.encode())]

    def _told(self, error: BaseException) -> BaseException:
        if isinstance(error, trio_websocket.ConnectionRejected):
            return self._refusal(error)
        if told := distrust(error, self.url, self.ca_file):
            return ServerUntrusted(told)
        if isinstance(error, _FAILURES):
            return ServerUnreachable(f"no Taskman server answers at {self.url} ({_describe(error)})")
        return error

    def _refusal(self, error: trio_websocket.ConnectionRejected) -> Exception:
        detail, code, status = "", "", error.status_code
        with suppress(ValueError):
            problem = json.loads(error.body or b"")
            if isinstance(problem, dict):
                detail, code = str(problem.get("detail") or ""), str(problem.get("code") or "")
        if status in _PASSING:
            return ServerUnreachable(f"no Taskman server answers at {self.url} (something says {status})")
        if 300 <= status < 400 and (place := _location(error)):
            detail = f"{self.url} redirects to {place}: set TASKMAN_SERVER to the server's own address"
            return RequestRefused(status, "redirected", detail)
        if not code:
            detail = f"{self.url} answers {status}, but not as Taskman does: set TASKMAN_SERVER to a Taskman server"
            return RequestRefused(status, "stranger", detail)
        told = f"the server at {self.url} refuses this worker: {detail}"
        kinds = {401: Unauthenticated, 403: Forbidden}
        return kinds[status](told) if status in kinds else RequestRefused(status, code, told)


def _location(error: trio_websocket.ConnectionRejected) -> str:
    """Where a redirect leads. It is not followed: the token is for the server that was named."""
    found = (value for name, value in error.headers or () if name.lower() == b"location")
    return next(found, b"").decode("ascii", "replace")


class _Frames:
    """The frames of one connection."""

    def __init__(self, connection: trio_websocket.WebSocketConnection) -> None:
        self._connection = connection

    async def receive(self) -> bytes:
        try:
            message = await self._connection.get_message()
        except trio_websocket.ConnectionClosed as error:
            raise LinkLost(_describe(error)) from None
        if isinstance(message, str):
            raise ProtocolViolation("frames are binary MessagePack, not text")
        return bytes(message)

    async def send(self, frame: bytes) -> None:
        try:
            await self._connection.send_message(frame)
        except trio_websocket.ConnectionClosed as error:
            raise LinkLost(_describe(error)) from None

    async def close(self, code: int, reason: str) -> None:
        with trio.move_on_after(CLOSE_S), suppress(trio_websocket.ConnectionClosed):
            await self._connection.aclose(code, reason)


def _describe(error: BaseException) -> str:
    if isinstance(error, trio_websocket.ConnectionClosed):
        reason = error.reason
        return f"closed with {reason.code} {reason.reason or ''}".strip() if reason else "the connection broke"
    if isinstance(error, trio.BrokenResourceError):
        return "the connection broke"
    if isinstance(error, trio.TooSlowError):
        return f"no answer in {CONNECT_S:g} s"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
