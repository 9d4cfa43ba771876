"""What is said to a server, and how its answers are read: without any I/O, so that Client and AsyncClient share it.

A dialogue is a generator. It yields steps, and is sent what came of each, or has the failure thrown into it; a Tell
is for the caller, and gets no answer. See taskman.transport for who takes the steps.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import chain
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import uuid4

from .answers import Document, LogLine, Run, Submitted
from .errors import ClientError, InvalidInput, NotFound, ServerUnreachable, WaitTimedOut

__all__ = [
    "API",
    "READ_TIMEOUT_S",
    "Ask",
    "Contact",
    "Dialogue",
    "Hear",
    "Listen",
    "Pause",
    "Step",
    "Tell",
    "answer",
    "ask",
    "bytes_of",
    "follow",
    "items",
    "log_at",
    "read",
    "segment",
    "submit_many",
    "wait",
]

API = "/api/v1"
READ_TIMEOUT_S = 60.0
_AWAY = frozenset({429, 502, 503, 504})
"""Statuses that say: not now, but perhaps soon."""
_PAUSES_S = (0.1, 0.4, 1.0, 2.0)
_WAIT_STEP_S = 30.0
_STEADY_S = 10.0
_MOST_RUNS = 1000
_MOST_BYTES = 4 * 1024 * 1024

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Ask:
    """A request; the answer is its document, or None. `content` is the body, of the media type `kind`."""

    method: str
    path: str
    content: bytes | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: str = "application/json"
    read_timeout_s: float = READ_TIMEOUT_S

    @property
    def can_be_repeated(self) -> bool:
        """Whether asking twice does no more than asking once."""
        return self.method == "GET" or "Idempotency-Key" in self.headers


@dataclass(frozen=True, slots=True)
class Listen:
    """Open a stream, in place of the one that may be open. No read timeout (None) for one that never ends."""

    path: str
    params: Mapping[str, Any]
    accept: str
    read_timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Hear:
    """The next bytes of the stream; None when it has ended."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for a while."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Tell:
    """Something for whoever iterates."""

    value: Any


Step = Ask | Listen | Hear | Pause | Tell
Dialogue = Generator[Step, Any, Answer]


@dataclass(slots=True)
class Contact:
    """What is known of the server: whether it has ever answered; `patience_s` is how long to bear with its absence."""

    patience_s: float
    has_answered: bool = False


def ask(
    method: str,
    path: str,
    body: object = None,
    params: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    read_timeout_s: float = READ_TIMEOUT_S,
) -> Ask:
    """The request for a path below `/api/v1`. Raises InvalidInput when `body` cannot be written as JSON."""
    content = None if body is None else _encode(body)
    return Ask(method, API + path, content, params or {}, headers or {}, read_timeout_s=read_timeout_s)


def segment(name: str) -> str:
    """A name as one segment of a path, whatever characters it has. Raises NotFound for one that can be none."""
    if not name.strip("."):
        raise NotFound(f"'{name}' names nothing")
    return quote(name, safe="", errors="replace")


def answer(contact: Contact, asked: Ask) -> Dialogue[Any]:
    """The document of the answer. When the reply is lost, and a repeat can do no harm, it is asked again."""
    for pause_s in _PAUSES_S if asked.can_be_repeated else ():
        try:
            return (yield asked)
        except ClientError as error:
            if not _is_lost(contact, asked, error):
                raise
        yield Pause(pause_s * random.uniform(0.5, 1.0))
    return (yield asked)


def _is_lost(contact: Contact, asked: Ask, error: ClientError) -> bool:
    if isinstance(error, ServerUnreachable):
        return error.is_lost_reply or contact.has_answered
    # the store may have taken it before it fell silent; who only looks is better served by a quick error
    return asked.method != "GET" and getattr(error, "status", 0) in (502, 503, 504)


def items(contact: Contact, path: str, filters: Mapping[str, Any]) -> Dialogue[None]:
    """Tells every item of a list, page by page; a page may be empty and not be the last. Instants may be `datetime`."""
    cursor = None
    wanted = {name: _written(one) if isinstance(one, date) else one for name, one in filters.items()}
    while True:
        page = yield from answer(contact, ask("GET", path, params={**wanted, "cursor": cursor}))
        for item in page["items"]:
            yield Tell(item)
        cursor = page.get("next_cursor")
        if not cursor:
            return


def submit_many(contact: Contact, bodies: Iterable[Mapping[str, Any]]) -> Dialogue[list[Submitted]]:
    """Asks for runs, a thousand or some mebibytes at a time; each time a repeat does no harm."""
    found: list[Submitted] = []
    for content in _batches(bodies):
        headers = {"Idempotency-Key": uuid4().hex}
        asked = Ask("POST", f"{API}/runs/bulk", content, headers=headers, kind="application/x-ndjson")
        reply = yield from answer(contact, asked)
        found += map(Submitted.of, reply["items"])
    return found


def _batches(bodies: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    lines: list[bytes] = []
    size = 0
    for line in map(_encode, bodies):
        if lines and (len(lines) == _MOST_RUNS or size + len(line) > _MOST_BYTES):
            yield b"\n".join(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line)
    if lines:
        yield b"\n".join(lines)


def wait(contact: Contact, run_id: str, timeout_s: float | None) -> Dialogue[Run]:
    """The run once it is final; bears with a server that restarts. Raises WaitTimedOut."""
    ends = time.monotonic() + (float("inf") if timeout_s is None else timeout_s)
    patience = Patience(contact, timeout_s)
    while True:
        step_s = min(_WAIT_STEP_S, max(0.0, ends - time.monotonic()))
        try:
            run = Run.of((yield _look(run_id, step_s)))
        except ClientError as error:
            yield patience.bear(error)
            continue
        if run.is_final:
            return run
        if time.monotonic() >= ends:
            raise WaitTimedOut(f"run {run_id} is still {run.state} after {timeout_s:g} s")
        patience.reset()
        yield Pause(min(0.1, step_s))  # a server that shuts down answers early; do not storm it


def _look(run_id: str, wait_s: float = 0.0) -> Ask:
    params = {"wait": f"{wait_s:g}"} if wait_s else {}
    return ask("GET", f"/runs/{segment(run_id)}", params=params, read_timeout_s=READ_TIMEOUT_S + wait_s)


class Patience:
    """How long to bear with a server that has gone away, asking ever less often.

    It is for a server that has answered before; one that never did is unreachable at once.
    """

    def __init__(self, contact: Contact, limit_s: float | None = None) -> None:
        self._contact = contact
        self._limit_s = min(contact.patience_s, float("inf") if limit_s is None else limit_s)
        self.reset()

    def reset(self) -> None:
        """The server is there again."""
        self._since: float | None = None
        self._pause_s = 0.1

    def bear(self, error: ClientError) -> Pause:
        """The pause before the next try; raises `error` when it is no absence, or lasts too long."""
        away = isinstance(error, ServerUnreachable) or getattr(error, "status", 0) in _AWAY
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        limit_s = self._limit_s if self._contact.has_answered else 0.0
        if not away or now - self._since >= limit_s:
            raise error
        pause = Pause(self._pause_s * random.uniform(0.5, 1.0))
        self._pause_s = min(self._pause_s * 2, 5.0)
        return pause


def log_at(
    run_id: str,
    attempt: int | None,
    after: int = 0,
    *,
    accept: str = "application/x-ndjson",
    is_followed: bool = False,
) -> Listen:
    """The log of an attempt (None: the latest) from the line after `after` on."""
    params = {"attempt": attempt, "after": after or None, "follow": 1 if is_followed else None}
    return Listen(f"{API}/runs/{segment(run_id)}/log", params, accept, None if is_followed else READ_TIMEOUT_S)


def bytes_of(listen: Listen) -> Dialogue[None]:
    """Tells the bytes of a stream as they come."""
    yield listen
    while (chunk := (yield Hear())) is not None:
        yield Tell(chunk)


def read(listen: Listen, is_wanted: Callable[[LogLine], bool] = lambda line: True) -> Dialogue[None]:
    """Tells the lines of a log that are wanted, to the end of the stream."""
    yield listen
    begun: list[bytes] = []
    while (chunk := (yield Hear())) is not None:
        # newlines only: text in JSON may hold other line separators
        first, *others = chunk.split(b"\n")
        begun.append(first)
        if others:
            for line in _lines(chain((b"".join(begun),), others[:-1])):
                if is_wanted(line):
                    yield Tell(line)
            begun = [others[-1]]
    for line in _lines((b"".join(begun),)):
        if is_wanted(line):
            yield Tell(line)


def _lines(texts: Iterable[bytes]) -> Iterator[LogLine]:
    for text in texts:
        if text.strip():
            try:
                raw: Document = json.loads(text)
            except ValueError:
                raise ServerUnreachable("the server broke off in the middle of a log line") from None
            yield LogLine.of(raw)


def follow(contact: Contact, run_id: str, attempt: int | None, after: int) -> Dialogue[None]:
    """Tells the lines of a log until its run is final, through restarts of the server; none is lost or repeated."""
    return _Follower(contact, run_id, attempt, after).lines()


class _Follower:
    """Reads a log until its run is final.

    After a break it asks for what follows the last line *of that line's attempt*: the latest attempt may be another
    one by now. The end of a stream is believed only if the run was final before the stream was opened, because a
    server that shuts down ends its streams too, and lines may be written while nobody listens.
    """

    def __init__(self, contact: Contact, run_id: str, attempt: int | None, after: int) -> None:
        self._run_id = run_id
        self._is_pinned = attempt is not None
        self._attempt, self._after = attempt, after
        self._known = (0, 0)
        self._latest = 0
        self._idle_s = 0.1
        self._patience = Patience(contact)

    def lines(self) -> Dialogue[None]:
        is_over = False
        while True:
            try:
                yield from self._stream(is_followed=not is_over)
                if is_over and not self._advance():
                    return
                is_over = is_over or (yield from self._look_whether_over())
            except ClientError as error:
                pause = self._patience.bear(error)
            else:
                continue
            yield pause

    def _stream(self, *, is_followed: bool) -> Dialogue[None]:
        opened = time.monotonic()
        self._known = (0, 0) if self._attempt is None else (self._attempt, self._after)
        try:
            yield from read(log_at(self._run_id, self._attempt, self._after, is_followed=is_followed), self._is_new)
        finally:
            if is_followed and time.monotonic() - opened > _STEADY_S:
                self._patience.reset()  # it was there, only the task had nothing to say

    def _is_new(self, line: LogLine) -> bool:
        place = line.attempt, line.line
        if place <= self._known:
            return False
        self._attempt, self._after = place
        self._idle_s = 0.1
        self._patience.reset()
        return True

    def _look_whether_over(self) -> Dialogue[bool]:
        raw = yield _look(self._run_id)
        self._latest = raw.get("attempt") or 0
        if Run.of(raw).is_final or (self._is_pinned and self._has_ended(raw)):
            return True
        if not self._advance():
            yield Pause(self._idle_s)  # the next attempt has not begun, or the server is about to go
            self._idle_s = min(self._idle_s * 2, 2.0)
        return False

    def _advance(self) -> bool:
        """Go on to the next attempt, if there is one to be read."""
        if self._is_pinned or self._attempt is None or self._attempt >= self._latest:
            return False
        self._attempt, self._after = self._attempt + 1, 0
        return True

    def _has_ended(self, raw: Document) -> bool:
        attempts = raw.get("attempts") or []
        return any(a["number"] == self._attempt and a["state"] != "running" for a in attempts)


def _encode(document: object) -> bytes:
    try:
        return json.dumps(document, ensure_ascii=False, allow_nan=False, default=_written).encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{error.object[error.start]!a} is not valid text, so it cannot be sent") from None
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"this cannot be sent as JSON: {error}") from None


def _written(value: object) -> str | float:
    """An instant as RFC 3339, one without an offset being local; a duration in seconds."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.astimezone()).isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{value!r:.100} is no JSON")
