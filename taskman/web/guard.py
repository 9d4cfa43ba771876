"""Stands in front of everything the web server answers: who is asked for, what every answer carries, no blank answer.

A page elsewhere can point its own name at our address and so speak to us with a browser's trust (DNS rebinding). The
name that it used is in `Host`: hence an allow list, for each request and each WebSocket.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import secrets
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from ..config import Address
from ..errors import ConfigError
from .asgi import App, Message, Receive, Scope, Send, sole_error
from .drain import Drain

__all__ = ["Guard", "HostRules", "allowed_hosts"]

log = logging.getLogger("taskman.web")

_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# Referrers stay on for our own pages: forms without an Origin header are judged by them.
_ALWAYS = {
    b"content-security-policy": _CONTENT_SECURITY_POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_OURS = frozenset((*_ALWAYS, b"x-request-id"))

_AUTHORITY = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+?)\.?)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_DEFAULT_PORTS = {"http": "80", "https": "443"}


@dataclass(frozen=True, slots=True)
class HostRules:
    """The hosts that we answer to: names in lower case, addresses as `ipaddress` writes them, `.suffix` wildcards."""

    exact: frozenset[str]
    suffixes: tuple[str, ...] = ()

    def allow(self, host: str) -> bool:
        """Whether `host`, without its port and in canonical form, is one of ours."""
        return host in self.exact or host.endswith(self.suffixes)


def allowed_hosts(addresses: Sequence[Address], extra: Iterable[str] = ()) -> HostRules:
    """The rules for a server that listens on `addresses`; `extra` is TASKMAN_ALLOWED_HOSTS.

    A server that listens everywhere answers to this machine's name, not to each of its addresses: they can change,
    and some may be known to nobody.
    Raises: ConfigError for an entry of `extra` that could never match.
    """
    exact, suffixes = {"localhost", "127.0.0.1", "::1"}, []
    for address in addresses:
        everywhere = address.host in ("0.0.0.0", "::")
        exact.add(socket.gethostname().lower() if everywhere else _canonical(address.host.lower()))
    for entry in extra:
        wildcard = entry.startswith("*.")
        parsed = _split(entry.removeprefix("*."))
        if parsed is None or (wildcard and _is_ip(parsed[0])):
            raise ConfigError(f"TASKMAN_ALLOWED_HOSTS cannot hold '{entry}': write example.com or *.example.com")
        if wildcard:
            suffixes.append("." + parsed[0])
        else:
            exact.add(parsed[0])
    return HostRules(frozenset(exact), tuple(suffixes))


def _split(authority: str) -> tuple[str, str] | None:
    """Host in canonical form and port (or nothing) of `authority`; None when it makes no sense."""
    match = _AUTHORITY.fullmatch(authority.lower())
    if match is None or (match["v6"] and not _is_ip(match["v6"])):
        return None
    return _canonical(match["v6"] or match["name"]), match["port"] or ""


def _canonical(host: str) -> str:
    return str(ipaddress.ip_address(host)) if _is_ip(host) else host


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Refusal:
    status: HTTPStatus
    code: str
    detail: str


class Guard:
    """ASGI middleware: checks Host and Origin, adds headers and a request id, turns a crash into an answer.

    `scope["taskman.request_id"]` names the request in answers, logs and problem documents.
    While `drain` is on, answers announce that the connection will be closed.
    Cancellation: passed on; a request that is cancelled gets no answer from here.
    """

    def __init__(self, app: App, *, hosts: HostRules, drain: Drain) -> None:
        self._app, self._hosts, self._drain = app, hosts, drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope["taskman.request_id"] = secrets.token_hex(8)
        exchange = _Exchange(scope, receive, send, self._drain)
        refusal = self._judge(scope)
        if refusal is None:
            await exchange.run(self._app)
        else:
            await exchange.refuse(refusal)

    def _judge(self, scope: Scope) -> _Refusal | None:
        if not scope["raw_path"].startswith(b"/") and scope["raw_path"] != b"*":
            return _Refusal(HTTPStatus.BAD_REQUEST, "bad_target", "Ask for a path, such as /runs; this is no proxy.")
        named = _header(scope, b"host")
        host = _split(named)
        if host is None:
            return _Refusal(HTTPStatus.BAD_REQUEST, "bad_host", "Send one Host header: a name or an address.")
        if not self._hosts.allow(host[0]):
            return _Refusal(
                HTTPStatus.MISDIRECTED_REQUEST,
                "unknown_host",
                f"This server does not answer to '{host[0]}'. To allow it, add it to TASKMAN_ALLOWED_HOSTS.",
            )
        if scope["type"] == "websocket" and not _same_origin(_header(scope, b"origin"), host):
            return _Refusal(HTTPStatus.FORBIDDEN, "foreign_origin", "Another site's page may not open this WebSocket.")
        return None


def _header(scope: Scope, wanted: bytes) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name.lower() == wanted), "")


def _same_origin(origin: str, host: tuple[str, str]) -> bool:
    # Behind a proxy that speaks TLS, the scheme here says nothing; a port that is left out is the Origin's default.
    if not origin:
        return True
    scheme, _, authority = origin.lower().partition("://")
    parsed = _split(authority)
    if parsed is None or scheme not in _DEFAULT_PORTS:
        return False
    default = _DEFAULT_PORTS[scheme]
    return parsed[0] == host[0] and (parsed[1] or default) == (host[1] or default)


class _Exchange:
    """One request and its answer, or one WebSocket."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, drain: Drain) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._request_id: str = scope["taskman.request_id"]
        self._drain = drain
        self._begun = self._gone = False

    async def run(self, app: App) -> None:
        """Let `app` answer; answer for it when it fails before it began, or does not answer at all."""
        failed = False
        try:
            await app(self._scope, self._hear, self._say)
        except* Exception as errors:
            failed = True
            what = f"{self._scope.get('method', 'WebSocket')} {self._scope['path']}"
            log.error("request %s failed: %s", self._request_id, what, exc_info=sole_error(errors))
        unanswered = not self._begun and not self._gone
        if unanswered and not failed:
            log.error("request %s was not answered: %s", self._request_id, self._scope["path"])
        if unanswered:
            detail = f"The server failed. Its log tells why, under request id {self._request_id}."
            await self._problem(_Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", detail))

    async def refuse(self, refusal: _Refusal) -> None:
        """Answer with `refusal` in place of the app."""
        if self._scope["type"] == "websocket":
            await self._receive()
        await self._problem(refusal)

    async def _hear(self) -> Message:
        message = await self._receive()
        if message["type"].endswith(".disconnect"):
            self._gone = True
        return message

    async def _say(self, message: Message) -> None:
        self._begun = True
        if message["type"].endswith(".response.start"):
            message = {**message, "headers": self._complete(message.get("headers", ()))}
        await self._send(message)

    def _complete(self, given: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        # What we promise of every answer no page can loosen; how long it may be kept is the page's own decision.
        headers = [(name, value) for name, value in given if name.lower() not in _OURS]
        if not any(name.lower() == b"cache-control" for name, _ in headers):
            headers.append((b"cache-control", b"no-store"))
        if self._drain.started and self._scope["type"] == "http":
            headers.append((b"connection", b"close"))
        return [*headers, *_ALWAYS.items(), (b"x-request-id", self._request_id.encode())]

    async def _problem(self, refusal: _Refusal) -> None:
        body = json.dumps(
            {
                "type": "about:blank",
                "title": refusal.status.phrase,
                "status": refusal.status.value,
                "code": refusal.code,
                "detail": refusal.detail,
                "request_id": self._request_id,
            }
        ).encode()
        kind = "http.response" if self._scope["type"] == "http" else "websocket.http.response"
        headers = [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(body))]
        await self._say({"type": f"{kind}.start", "status": refusal.status.value, "headers": headers})
        await self._say({"type": f"{kind}.body", "body": body})
