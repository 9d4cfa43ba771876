"""Server-sent events: how one is written, how a response streams them, and how one event reaches many readers."""

from __future__ import annotations

import random
import re
from typing import Protocol

import trio
from quart import Response, g, has_request_context, request

from .auth import Rights, rights
from .drain import Drain
from .streaming import StreamBody

__all__ = ["Broadcast", "EventStream", "Source", "Subscriber", "encode", "respond"]

_GREETING = b": taskman\nretry: 1000\n\n"
_PING = b": ping\n\n"
_LINE_END = re.compile(rb"\r\n|\r|\n")
_JOINED = 64 * 1024


class Source(Protocol):
    """Where a stream's events come from."""

    async def receive(self) -> bytes:
        """The next whole, encoded events.

        Cancellation: nothing is lost, the next call returns what this one would have.
        Raises: trio.EndOfChannel after the last.
        """

    def close(self) -> None:
        """The reader has gone. Synchronous, so that no cancellation can cut it; again does nothing."""


def encode(event: str | None, data: str | bytes, id: str | None = None) -> bytes:
    """One event as the browser reads it; every line of `data` arrives, none can pose as another field.

    Raises: ValueError when `event` or `id` holds a line end or NUL, which no encoding can carry.
    """
    lines = [_field(b"event", event)] if event is not None else []
    if id is not None:
        lines.append(_field(b"id", id))
    payload = data.encode() if isinstance(data, str) else data
    lines.extend(b"data: " + line for line in _LINE_END.split(payload))
    return b"\n".join(lines) + b"\n\n"


def _field(name: bytes, value: str) -> bytes:
    if any(character in value for character in "\r\n\0"):
        raise ValueError(f"an event's {name.decode()} cannot hold {value!r}: no line ends, no NUL")
    return name + b": " + value.encode()


_RESET = encode("reset", "")


class EventStream(StreamBody):
    """The body of a response that streams `source`: speaks at once, pings when silent, ends when `drain` starts.

    It ends as well when its reader's `rights` do; a browser that comes back is then sent away.
    """

    def __init__(self, source: Source, drain: Drain, *, rights: Rights | None = None, ping_s: float = 15.0) -> None:
        super().__init__(drain, rights)
        self._source, self._ping_s = source, ping_s
        self._greeted = self._ended = False

    async def __anext__(self) -> bytes:
        if not self._greeted:
            self._greeted = True
            return _GREETING
        if self._ended or not await self._is_welcome():
            raise StopAsyncIteration
        events = await self._next(self._source.receive, self._ping_s)
        if events is not None:
            return events
        return self._farewell() if self._drain.started else _PING

    def _farewell(self) -> bytes:
        # Spread over seconds, so that the next server does not get all of this one's readers at the same moment.
        self._ended = True
        return b"retry: %d\n\n" % random.randrange(500, 3000)

    def _close(self) -> None:
        self._source.close()


async def respond(source: Source, drain: Drain) -> Response:
    """The response that streams `source`; to HEAD only its head."""
    only_head = has_request_context() and request.method == "HEAD"
    if only_head:
        source.close()
    known = rights() if has_request_context() and "identity" in g else None
    body = b"" if only_head else EventStream(source, drain, rights=known)
    response = Response(body, content_type="text/event-stream")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    response.timeout = None  # Quart would cut the stream after 60 s
    return response


class Broadcast:
    """Brings each event to every subscriber. No subscriber can hold up the others, or make the server hoard."""

    def __init__(self) -> None:
        self._subscribers: set[Subscriber] = set()

    def __len__(self) -> int:
        return len(self._subscribers)

    def subscribe(self, limit: int = 256) -> Subscriber:
        """A source of all that is published from now on; it may lag by `limit` blocks."""
        subscriber = Subscriber(self, limit)
        self._subscribers.add(subscriber)
        return subscriber

    def publish(self, block: bytes) -> None:
        """Give `block`, whole encoded events, to all. Those that lag too far are sent away with a reset."""
        for subscriber in [each for each in self._subscribers if not each.offer(block)]:
            self.discard(subscriber)

    def close_all(self) -> None:
        """End every subscription, after what it still has to read."""
        for subscriber in list(self._subscribers):
            subscriber.end()
            self.discard(subscriber)

    def discard(self, subscriber: Subscriber) -> None:
        """Publish no more to `subscriber`."""
        self._subscribers.discard(subscriber)


class Subscriber:
    """One reader's place in a Broadcast: a Source.

    A reader that fell too far behind gets what it had waiting, then `event: reset`, then the end. Its browser comes
    back with the id of the last event that it saw, and is brought up to date from the store.
    """

    def __init__(self, hub: Broadcast, limit: int) -> None:
        self._hub = hub
        self._put, self._take = trio.open_memory_channel[bytes](limit)
        self._reset_is_due = False

    def offer(self, block: bytes) -> bool:
        """Add `block`, or, when there is no room, end the subscription and say so."""
        try:
            self._put.send_nowait(block)
        except trio.WouldBlock:
            self._reset_is_due = True
            self.end()
            return False
        return True

    async def receive(self) -> bytes:
        """All that is waiting, up to some 64 KiB; waits for the first. See Source.receive."""
        try:
            blocks = [await self._take.receive()]
        except trio.EndOfChannel:
            if not self._reset_is_due:
                raise
            self._reset_is_due = False
            return _RESET
        size = len(blocks[0])
        while size < _JOINED and self._take.statistics().current_buffer_used:
            blocks.append(self._take.receive_nowait())
            size += len(blocks[-1])
        return b"".join(blocks)

    def end(self) -> None:
        """Nothing more will come; what is waiting can still be read."""
        self._put.close()

    def close(self) -> None:
        """The reader has gone."""
        self._put.close()
        self._take.close()
        self._hub.discard(self)
