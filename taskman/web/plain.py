"""A submit that has come plain and whole: read without Hypercorn, and answered by the same app.

h11 and Hypercorn take half a millisecond for a request, more than all the rest of a submit. What is read here is what
nobody can read in two ways; everything else is theirs, from its first byte: other addresses, a head that comes in
pieces, any header about the connection or about how the body is coded, a request that another follows at once.
Only submits, because nobody listens to the client while one is answered: what may take long must hear that it leaves.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from wsgiref.handlers import format_date_time

import trio

from .asgi import Message, Scope

__all__ = ["PlainAnswer", "PlainRequest", "read_plain"]

_MOST_BYTES = 64 * 1024
_MOST_DIGITS = 5
_HEAD = re.compile(rb"POST (/api/v1/runs) HTTP/1\.1\r\n((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n)+)\r\n")
_NEVER = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"te", b"trailer", b"keep-alive", b"proxy-connection"})
_BODILESS = (204, 304)
_REFUSED = b"HTTP/1.1 500 \r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@dataclass(slots=True)
class PlainRequest:
    """One request, of which `missing` bytes of the body are still to come; negative when more than it has come."""

    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    missing: int
    _is_told: bool = False
    _over: trio.Event = field(default_factory=trio.Event)

    def take(self, data: bytes) -> None:
        """More of its body has come."""
        self.body += data
        self.missing -= len(data)

    def scope(self, client: Any, server: Any, state: dict[str, Any]) -> Scope:
        """As the app hears of it."""
        return {
            "type": "http",
            "http_version": "1.1",
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "method": "POST",
            "scheme": "http",
            "path": self.target.decode("ascii"),
            "raw_path": self.target,
            "query_string": b"",
            "root_path": "",
            "headers": self.headers,
            "client": client,
            "server": server,
            "state": state,
            "extensions": {},
        }

    async def receive(self) -> Message:
        """The body, whole; then, once `end` was called, that the client has gone."""
        if self._is_told:
            await self._over.wait()
            return {"type": "http.disconnect"}
        self._is_told = True
        return {"type": "http.request", "body": self.body, "more_body": False}

    def end(self) -> None:
        """It has been answered, or will never be."""
        self._over.set()


def read_plain(data: bytes) -> PlainRequest | None:
    """The request that `data` is, or begins to be with a whole head; None for whatever is not plain."""
    head = _HEAD.match(data)
    if head is None:
        return None
    headers = [_header(line) for line in head[2].split(b"\r\n")[:-1]]
    lengths = [value for name, value in headers if name == b"content-length"]
    if len(lengths) != 1 or not lengths[0].isdigit() or len(lengths[0]) > _MOST_DIGITS:
        return None
    if any(_is_special(*header) for header in headers) or sum(name == b"host" for name, _ in headers) != 1:
        return None
    body, length = data[head.end() :], int(lengths[0])
    return PlainRequest(head[1], headers, body, length - len(body)) if len(body) <= length <= _MOST_BYTES else None


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.lower(), value.strip(b" \t")


def _is_special(name: bytes, value: bytes) -> bool:
    return name in _NEVER or (name == b"connection" and value.lower() != b"keep-alive")


class PlainAnswer:
    """What an app says to such a request, as bytes. `closes`: the connection ends with it."""

    def __init__(self) -> None:
        self._head = b""
        self._left: int | None = 0  # of the body; None when its length is not told beforehand
        self._has_body = self._has_begun = False
        self.is_complete = self.closes = False

    def encode(self, message: Message | None) -> bytes:
        """What is to be written now; the head waits for the first piece of the body. None is the end of the app.

        Raises: ValueError for what would not be one answer.
        """
        if message is None:
            return b"" if self._has_begun else self._give_up()
        if message["type"] == "http.response.start":
            self._begin(message["status"], message.get("headers", ()))
            return b""
        if message["type"] != "http.response.body" or self.is_complete:
            return b""
        is_last, self._has_begun = not message.get("more_body", False), True
        head, self._head = self._head, b""
        framed = self._framed(bytes(message.get("body", b"")), is_last=is_last) if self._has_body else b""
        self.is_complete = is_last
        return head + framed

    def _begin(self, status: int, given: Any) -> None:
        headers = [(name.lower(), value) for name, value in given if name.lower() != b"transfer-encoding"]
        told = dict(headers)
        self.closes = told.get(b"connection", b"").lower() == b"close"
        self._has_body = status not in _BODILESS
        self._left = int(told[b"content-length"]) if b"content-length" in told else None
        if self._has_body and self._left is None:
            headers.append((b"transfer-encoding", b"chunked"))
        headers.append((b"date", _date(int(time.time()))))
        lines = [b"HTTP/1.1 %d " % status, *(b"%s: %s" % header for header in headers), b"", b""]
        head = b"\n".join(lines)
        if b"\r" in head or b"\0" in head or head.count(b"\n") != len(lines) - 1:
            raise ValueError("a header of an answer contains a line end or a NUL character")
        self._head = head.replace(b"\n", b"\r\n")

    def _framed(self, piece: bytes, *, is_last: bool) -> bytes:
        if self._left is None:
            chunk = b"%x\r\n%s\r\n" % (len(piece), piece) if piece else b""
            return chunk + b"0\r\n\r\n" if is_last else chunk
        self._left -= len(piece)
        if self._left < 0 or (is_last and self._left):
            raise ValueError("the body of an answer has not the length that was announced")
        return piece

    def _give_up(self) -> bytes:
        self._has_begun = self.is_complete = self.closes = True
        return _REFUSED


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return format_date_time(second).encode()
