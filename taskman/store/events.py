"""The event hub of a server: one subscription to the store's events, fanned out to whoever listens here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from ..errors import StoreError
from ..model.events import Event, Topic, parse_event, topics_of
from .connection import Connection
from .keys import Keys
from .pubsub import Message, PubSub, Subscription

__all__ = ["Batch", "EventHub", "Listener", "entry_order"]

_BUFFER = 1000


class Batch:
    """What one change in the store announced, line by line. `id` is the stream id to resume after.

    `gap`: events before this batch may have been missed, and whoever keeps state must read it afresh.
    """

    __slots__ = ("_events", "_lines", "gap", "id")

    def __init__(self, id: str, lines: str = "", *, gap: bool = False) -> None:
        self.id, self.gap, self._lines = id, gap, lines
        self._events: tuple[Event, ...] | None = None

    @property
    def topics(self) -> set[Topic]:
        """What its events are about."""
        return topics_of(self._lines)

    @property
    def events(self) -> tuple[Event, ...]:
        """Read when somebody asks: of most batches nobody wants to know more than the topics."""
        if self._events is None:
            parsed = map(parse_event, self._lines.split("\n"))
            self._events = tuple(event for event in parsed if event is not None)
        return self._events

    def after_gap(self) -> Batch:
        """The same for somebody who has missed what came before it."""
        return Batch(self.id, self._lines, gap=True)


class Listener:
    """Receives batches in order; a slow one gets a gap instead of an unbounded queue."""

    def __init__(self, topics: frozenset[Topic]) -> None:
        """`topics` are of interest; none means all. Others wake nobody: most are of runs, many a second."""
        self._topics = topics
        self._send, self._receive = trio.open_memory_channel[Batch](_BUFFER)
        self._overflowed = False

    def wants(self, batch: Batch, topics: set[Topic]) -> bool:
        """Whether a batch with events on these topics is of interest."""
        return batch.gap or self._overflowed or not self._topics or not self._topics.isdisjoint(topics)

    def offer(self, batch: Batch) -> None:
        """Queue a batch, or note that one was dropped."""
        if self._overflowed:
            batch = batch.after_gap()
        try:
            self._send.send_nowait(batch)
            self._overflowed = False
        except trio.WouldBlock:
            self._overflowed = True

    async def receive(self) -> Batch:
        """The next batch. Cancellation loses nothing."""
        return await self._receive.receive()

    def receive_waiting(self) -> list[Batch]:
        """The batches that wait already."""
        waiting = []
        while self._receive.statistics().current_buffer_used:
            waiting.append(self._receive.receive_nowait())
        return waiting

    def __aiter__(self) -> Listener:
        return self

    async def __anext__(self) -> Batch:
        return await self.receive()


class EventHub:
    """Follows the events of a shard for as long as `run` runs."""

    def __init__(self, connection: Connection, pubsub: PubSub, keys: Keys) -> None:
        self._connection, self._pubsub, self._keys = connection, pubsub, keys
        self._listeners: set[Listener] = set()
        self.last_id = "0-0"

    @contextmanager
    def listen(self, *topics: Topic) -> Iterator[Listener]:
        """A listener that gets everything from now on, or the batches that hold an event on a topic; and gaps."""
        listener = Listener(frozenset(topics))
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the store's events for ever; ready once subscribed."""
        async with self._pubsub.subscribe(self._keys.events) as subscription:
            self.last_id = await self.newest_id()
            task_status.started()
            await self._follow(subscription)

    async def _follow(self, subscription: Subscription) -> None:
        async for message in subscription:
            if isinstance(message, Message):
                entry_id, _, body = message.payload.decode().partition("\n")
                self._deliver(Batch(entry_id, body))
            else:
                await self._catch_up()

    async def _catch_up(self) -> None:
        """After a gap: everybody is told, for what was missed may be more than the stream still holds."""
        try:
            newest = await self.newest_id()
        except StoreError:
            return  # the next reconnection brings another gap
        self._deliver(Batch(newest, gap=True))

    def _deliver(self, batch: Batch) -> None:
        self.last_id = batch.id
        topics = batch.topics
        for listener in self._listeners:
            if listener.wants(batch, topics):
                listener.offer(batch)

    async def newest_id(self) -> str:
        """The id of the last batch that the store has announced, whether it was heard of here yet or not."""
        newest = await self._connection.execute("XREVRANGE", self._keys.events, "+", "-", "COUNT", 1)
        return newest[0][0].decode() if newest else "0-0"

    async def since(self, last_id: str, limit: int = 1000) -> list[Batch] | None:
        """The batches after `last_id`, at most `limit`; None when some of them have been trimmed away."""
        oldest = await self._connection.execute("XRANGE", self._keys.events, "-", "+", "COUNT", 1)
        if oldest and entry_order(oldest[0][0].decode()) > entry_order(last_id):
            return None
        return await self.backlog(last_id, limit)

    async def backlog(self, last_id: str, limit: int) -> list[Batch]:
        """What is still known of the batches after `last_id`, at most `limit`."""
        reply = await self._connection.execute("XRANGE", self._keys.events, f"({last_id}", "+", "COUNT", limit)
        return [Batch(entry_id.decode(), fields[1].decode()) for entry_id, fields in reply]


def entry_order(entry_id: str) -> tuple[int, int]:
    """What ids of the stream are compared by."""
    at, _, seq = entry_id.partition("-")
    return int(at), int(seq or 0)
