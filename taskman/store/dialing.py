"""Reaching Redis, and reaching it again: dial, greet, back off."""

from __future__ import annotations

import logging
import os
import random
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any, Final

import hiredis
import trio

from ..errors import StoreError, StoreUnavailable
from .endpoint import Endpoint
from .link import Link
from .replies import INCOMPLETE, error_kind, new_reader, pack
from .stream import DirectStream

__all__ = ["Dialer", "dial"]

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0

_START: Final = "Start it, or correct TASKMAN_REDIS_URL."
_CREDENTIALS: Final = "Correct the user name and password in TASKMAN_REDIS_URL."
_CERTIFICATE: Final = "Name the authority in the URL (?ssl_ca_certs=FILE), or correct the certificate of Redis."
_NO_TLS: Final = "Start it; if it is a Redis without TLS, its URL is redis:// instead of rediss://."
_NEEDS_TLS: Final = "If that Redis expects TLS, its URL is rediss:// instead of redis://; else restart it."
_WAIT: Final = "It is not ready yet; try again in a moment."
_REMEDIES: Final = {
    "AUTH": _CREDENTIALS,
    "NOAUTH": _CREDENTIALS,
    "WRONGPASS": _CREDENTIALS,
    "LOADING": _WAIT,
    "MASTERDOWN": _WAIT,
}


class Dialer:
    """Keeps one link to Redis: dials, hands the stream over, and dials again when the link is lost."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.trouble = f"Redis at {endpoint.describe()} was not dialled yet."

    async def run(self, adopt: Callable[[trio.abc.Stream], Link], task_status: trio.TaskStatus[None]) -> None:
        """Serve one link after the other, for ever; `adopt` makes the link that its owner then uses.

        Calls started() when the first link is up. Later losses are dialled again after pauses with full
        jitter, up to 2 s. `trouble` says why there is no link.
        Cancellation: closes the link at once.
        Raises: StoreUnavailable when the first attempt fails.
        """
        stream = await dial(self.endpoint)
        link = adopt(stream)
        task_status.started()
        pauses = _pauses()
        while True:
            began = trio.current_time()
            await self._serve(link)
            # A link that is lost as soon as it is up (a proxy without a server behind it) must not be
            # dialled in a tight loop, so only one that lasted starts the pauses anew.
            if trio.current_time() - began > _LONGEST_PAUSE_S:
                pauses = _pauses()
            link = adopt(await self._redial(pauses))
            _log.info("reconnected to Redis at %s", self.endpoint.describe())

    async def _serve(self, link: Link) -> None:
        try:
            await link.run()
        finally:
            self.trouble = _trouble(self.endpoint, link.lost or "the link was closed", _START)
        _log.warning("lost Redis at %s: %s; reconnecting", self.endpoint.describe(), link.lost)

    async def _redial(self, pauses: Iterator[float]) -> trio.abc.Stream:
        while True:
            await trio.sleep(next(pauses))
            try:
                return await dial(self.endpoint)
            except StoreUnavailable as error:
                self.trouble = str(error)


def _pauses() -> Iterator[float]:
    ceiling_s = _FIRST_PAUSE_S
    while True:
        yield random.uniform(0, ceiling_s)
        ceiling_s = min(2 * ceiling_s, _LONGEST_PAUSE_S)


async def dial(endpoint: Endpoint) -> trio.abc.Stream:
    """Open a stream to Redis and greet: credentials, readiness, database, name of the client.

    Cancellation: nothing stays open.
    Raises: StoreUnavailable with address, cause and remedy.
    """
    try:
        with trio.fail_after(endpoint.connect_timeout_s):
            return await _open(endpoint)
    except trio.TooSlowError:
        cause = f"no answer within {endpoint.connect_timeout_s:g} s"
        remedy = _NO_TLS if endpoint.tls else _START  # Redis takes the beginning of TLS for half a command
    except ssl.CertificateError as error:
        cause, remedy = f"its certificate was refused ({error.verify_message})", _CERTIFICATE
    except trio.BrokenResourceError as error:
        cause, remedy = _broken(error, endpoint)
    except OSError as error:
        cause, remedy = _reason(error), _START
    except hiredis.ProtocolError:
        cause, remedy = "what answers there is not Redis", _START
    raise StoreUnavailable(_trouble(endpoint, cause, remedy))


async def _open(endpoint: Endpoint) -> trio.abc.Stream:
    stream = await _connect(endpoint)
    try:
        await _greet(stream, endpoint)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def _connect(endpoint: Endpoint) -> trio.abc.Stream:
    if endpoint.path:
        return DirectStream(await trio.open_unix_socket(endpoint.path))
    stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
    # TCP_NODELAY is Trio's default. Keepalive finds a dead host while no call is waiting.
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if endpoint.tls is None:
        return DirectStream(stream)
    # Redis closes without TLS's own goodbye, as HTTPS servers do.
    return trio.SSLStream(stream, endpoint.tls, server_hostname=endpoint.host, https_compatible=True)


async def _greet(stream: trio.abc.Stream, endpoint: Endpoint) -> None:
    commands = endpoint.greeting()
    await stream.send_all(b"".join(map(pack, commands)))
    reader = new_reader()
    for command in commands:
        reply = await _receive(stream, reader)
        if isinstance(reply, StoreError):
            _check_refusal(endpoint, str(command[0]), reply)


async def _receive(stream: trio.abc.Stream, reader: hiredis.Reader) -> Any:
    while (reply := reader.gets()) is INCOMPLETE:
        data = await stream.receive_some(4096)
        if not data:
            raise trio.BrokenResourceError("Redis closed the connection")
        reader.feed(bytes(data))
    return reply


def _check_refusal(endpoint: Endpoint, command: str, refusal: StoreError) -> None:
    kind = error_kind(refusal)
    # An account may be forbidden to ping or to name its connection, and still run every script.
    if command == "CLIENT" or (command == "PING" and kind == "NOPERM"):
        return
    remedy = _REMEDIES.get(kind) or _REMEDIES.get(command) or _START
    raise StoreUnavailable(_trouble(endpoint, endpoint.conceal(str(refusal)), remedy))


def _trouble(endpoint: Endpoint, cause: str, remedy: str) -> str:
    return f"Cannot reach Redis at {endpoint.describe()}: {cause.rstrip('.')}. {remedy}"


def _broken(error: trio.BrokenResourceError, endpoint: Endpoint) -> tuple[str, str]:
    cause = error.__cause__
    if isinstance(cause, ssl.CertificateError):
        return f"its certificate was refused ({cause.verify_message})", _CERTIFICATE
    if isinstance(cause, ssl.SSLError):
        return f"the TLS handshake failed ({cause.reason or cause})", _NO_TLS
    return "it closed the connection", _START if endpoint.tls or endpoint.path else _NEEDS_TLS


def _reason(error: OSError) -> str:
    """The plain reason behind Trio's 'all attempts to connect failed'."""
    cause: BaseException | None = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    root = cause if isinstance(cause, OSError) else error
    if isinstance(root, socket.gaierror) or not root.errno:
        return (root.strerror or str(root)).lower()
    return os.strerror(root.errno).lower()  # without Trio's "error connecting to …": the address is known
