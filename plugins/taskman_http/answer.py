"""An answer: read up to a limit, unpacked within it, and written down as a run's result."""

from __future__ import annotations

import base64
import codecs
import json
import re
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import httpcore2
import httpx2

from taskman import TaskFailed

from .masking import shown_header, shown_url

__all__ = ["Answer", "read_answer"]

_JSON_MOST = 768 * 1024
_HEADERS_MOST = 64 * 1024
_PACKED_MORE = 4096
_WAIT_MOST_S = 86_400.0
_GZIP = 31
_PHRASES = {one.value: one.phrase for one in HTTPStatus}
_TEXT = re.compile(
    r"text/.*|.*\+(json|xml|yaml)"
    r"|application/(json|xml|javascript|x-javascript|x-www-form-urlencoded|x-ndjson|jsonl|yaml|x-yaml|toml|graphql|sql)"
)
# others, such as punycode, take a time that grows with the square of the length
_CHARSETS = re.compile(r"ascii|utf-(8|16|32)(-[bl]e)?|iso8859-\d+|cp\d+|koi8-[rut]|gb\w+|big5\w*|shift_jis\w*|euc_\w+")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: `body` is unpacked and holds at most the limit; `is_whole` tells whether that is all of it."""

    url: httpx2.URL
    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool
    is_packed: bool = False
    problem: str | None = None

    @property
    def title(self) -> str:
        """The status in numbers and words. The server's own words are not taken: they may say anything."""
        return f"{self.status} {_PHRASES.get(self.status, '')}".strip()

    @property
    def size(self) -> int | None:
        """The bytes of the whole body, where they are known."""
        if self.is_whole:
            return len(self.body)
        told = self.headers.get("content-length", "")
        return int(told) if told.isdecimal() and len(told) < 20 and "content-encoding" not in self.headers else None

    @property
    def retry_after_s(self) -> float | None:
        """The seconds that the server asks to wait, at most a day; None when it does not say."""
        told = self.headers.get("retry-after", "").strip()
        if told.isdecimal():
            return float(min(int(told[:10]), _WAIT_MOST_S))
        try:
            moment = parsedate_to_datetime(told)
        except ValueError:
            return None
        wait_s = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime.now(UTC)
        return min(max(wait_s.total_seconds(), 0.0), _WAIT_MOST_S)

    def result(self, keep: str) -> dict[str, Any]:
        """The result of the run. `keep` is text, base64 or none: what becomes of the body."""
        body, encoding, is_cut = self._kept(keep)
        return {
            "status": self.status,
            "headers": _shown(self.headers),
            "body": body,
            "truncated": is_cut or not self.is_whole,
            "encoding": encoding,
            "size": self.size,
            "url": shown_url(self.url),
        }

    def _kept(self, keep: str) -> tuple[str | None, str | None, bool]:
        if keep == "base64":
            return base64.b64encode(self.body).decode(), "base64", False
        text = self._text() if keep == "text" else None
        if text is None:
            return None, None, False
        short = _fitting(text)
        return short, "text", short is not text

    def _text(self) -> str | None:
        """The body as text; None when it is none."""
        kind = Message()
        kind["content-type"] = self.headers.get("content-type", "")
        charset = kind.get_content_charset()
        if self.is_packed or (self.body and not self._is_text(kind.get_content_type(), charset)):
            return None
        return _decoder(charset, "replace").decode(self.body, final=self.is_whole).removeprefix("\ufeff")

    def _is_text(self, kind: str, charset: str | None) -> bool:
        if self.headers.get("content-type"):
            return charset is not None or _TEXT.fullmatch(kind) is not None
        try:
            return "\0" not in _decoder(None, "strict").decode(self.body, final=self.is_whole)
        except UnicodeDecodeError:
            return False


def _decoder(charset: str | None, errors: str) -> codecs.IncrementalDecoder:
    try:
        known = codecs.lookup(charset or "utf-8")
    except (LookupError, ValueError):
        known = codecs.lookup("utf-8")
    return codecs.getincrementaldecoder(known.name if _CHARSETS.fullmatch(known.name) else "utf-8")(errors)


def _fitting(text: str) -> str:
    """The text, or as much of its beginning as stays within the limit when it is written as JSON."""
    while (size := len(json.dumps(text))) > _JSON_MOST:
        text = text[: len(text) * _JSON_MOST // size]
    return text


def _shown(headers: Mapping[str, str]) -> dict[str, str]:
    shown, room = {}, _HEADERS_MOST
    for name, value in headers.items():
        room -= len(json.dumps([name, value]))
        if room < 0:
            break
        shown[name] = shown_header(name, value)
    return shown


async def read_answer(response: httpcore2.Response, url: httpx2.URL, limit: int) -> Answer:
    """Read the answer up to `limit` bytes of body, unpacked, and no further: the rest is never asked for.

    Raises: TaskFailed when what should be gzip is not; httpcore2's errors.
    """
    headers = _joined(response.headers)
    coding = headers.get("content-encoding", "identity").strip().lower()
    unpack = _Gunzip() if coding in ("gzip", "x-gzip") else None
    try:
        body, is_whole = await _read(response, unpack, limit)
    except zlib.error as error:
        raise TaskFailed("error", f"the server says that its answer is gzip, but it is not: {error}") from error
    is_packed = unpack is None and coding != "identity"
    return Answer(url, response.status, headers, body, is_whole, is_packed)


def _joined(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name in found and name == "set-cookie":
            continue  # only their names are shown, and the first tells enough
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


async def _read(response: httpcore2.Response, unpack: _Gunzip | None, limit: int) -> tuple[bytes, bool]:
    kept, packed = bytearray(), 0
    async with aclosing(_chunks(response)) as chunks:
        async for chunk in chunks:
            packed += len(chunk)
            room = limit + 1 - len(kept)  # one more than is kept, to see whether there is more
            kept += unpack.take(chunk, room) if unpack else chunk[:room]
            if len(kept) > limit or packed > limit + _PACKED_MORE:  # packed data may unpack to nothing, for ever
                return bytes(kept[:limit]), False
    if unpack is not None:
        unpack.finish()
    return bytes(kept), True


def _chunks(response: httpcore2.Response) -> Any:
    stream: AsyncIterator[bytes] = response.aiter_stream()
    return stream


class _Gunzip:
    """Unpacks gzip piece by piece, and never more than is asked for."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)
        self._is_begun = False

    def take(self, data: bytes, room: int) -> bytes:
        """At most `room` bytes of what `data` unpacks to; when there are as many, the rest is lost."""
        found = bytearray()
        while data and len(found) < room:
            if self._member.eof:
                if not data.startswith(b"\x1f"):
                    break  # padding after the end, as some write it
                self._member = zlib.decompressobj(_GZIP)
            self._is_begun = True
            found += self._member.decompress(data, room - len(found))
            data = self._member.unused_data
        return bytes(found)

    def finish(self) -> None:
        """Nothing more comes. Raises zlib.error when there should be more."""
        if self._is_begun and not self._member.eof:
            raise zlib.error("it ends too early")
