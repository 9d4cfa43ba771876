"""Pub/sub: messages as an async iterator that says when some may have been missed."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import hiredis
import trio

from ..errors import StoreError, StoreUnavailable
from .dialing import Dialer
from .endpoint import Endpoint
from .link import Link
from .replies import pack

__all__ = ["GAP", "Gap", "Message", "PubSub", "Subscription"]


class Gap(enum.Enum):
    """The type of GAP, for annotations: `Message | Gap`."""

    GAP = "gap"


GAP: Final = Gap.GAP
"""Messages may have been missed here: read the state again, then follow on."""


@dataclass(frozen=True, slots=True)
class Message:
    """What somebody published."""

    channel: str
    payload: bytes


class Subscription:
    """The messages of some channels from the moment of subscribing, as an async iterator.

    Holds a bounded number of messages for a slow reader; when there are more, they are dropped, and GAP
    stands in their place. Ends when the subscription is left.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._leave: Callable[[], None] = lambda: None
        self._buffer: deque[Message | Gap] = deque()
        self._readers = trio.lowlevel.ParkingLot()
        self._ended = False
        self._failure: StoreError | None = None

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Message | Gap:
        """Wait for the next message, or GAP.

        Cancellation: no message is lost.
        Raises: StoreUnavailable when the connection was closed for good, StoreError when Redis has
        taken away the permission for a channel; messages that came before are delivered first.
        """
        if self._buffer:
            await trio.lowlevel.checkpoint()
        while not self._buffer:
            if self._failure is not None:
                raise type(self._failure)(str(self._failure))
            if self._ended:
                await trio.lowlevel.checkpoint()
                raise StopAsyncIteration
            await self._readers.park()
        return self._buffer.popleft()

    def leave(self) -> None:
        """End the subscription. Synchronous, so that no cancellation can cut it; again does nothing."""
        self._leave()
        self._end()

    def _put(self, message: Message) -> None:
        if len(self._buffer) >= self._capacity:
            self._buffer.clear()
            self._buffer.append(GAP)
        self._buffer.append(message)
        self._readers.unpark()

    def _put_gap(self) -> None:
        if not self._buffer or self._buffer[-1] is not GAP:
            self._buffer.append(GAP)
        self._readers.unpark()

    def _end(self, failure: StoreError | None = None) -> None:
        self._ended, self._failure = True, failure
        self._readers.unpark_all()


class PubSub:
    """Shares one link between all subscriptions of the process; each channel is subscribed to once."""

    def __init__(
        self, url: str, *, capacity: int = 1000, keepalive_s: float = 30.0, call_timeout_s: float = 10.0
    ) -> None:
        """Read the URL. `capacity` is the number of messages held for each slow reader.

        Raises: ConfigError that names what is wrong with the URL.
        """
        self._capacity = capacity
        self._keepalive_s = keepalive_s
        self._call_timeout_s = call_timeout_s
        self._dialer = Dialer(Endpoint.from_url(url, connect_timeout_s=call_timeout_s))
        self._link: _FeedLink | None = None
        self._topics: dict[bytes, _Topic] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the link for ever: connect, call started(), and after each loss reconnect and subscribe again.

        A PING every `keepalive_s` finds a dead link while nobody publishes.
        Cancellation: closes the link; iterators end with StoreUnavailable.
        Raises: StoreUnavailable (address, cause, remedy) when the first attempt to connect fails.
        """
        try:
            await self._dialer.run(self._adopt, task_status)
        finally:
            for topic in self._topics.values():
                topic.end(StoreUnavailable(f"The link for events is closed. {self._dialer.trouble}"))

    @property
    def connected(self) -> bool:
        """Whether there is a link."""
        return self._link is not None and self._link.lost is None

    @asynccontextmanager
    async def subscribe(self, *channels: str) -> AsyncIterator[Subscription]:
        """Subscribe to `channels`; the body is entered when Redis has confirmed all of them.

        Whatever is published from then on is delivered or replaced by GAP, so a state read inside the
        body and the messages together leave no hole. Messages of one channel keep their order.
        Cancellation: leaves the channels.
        Raises: StoreUnavailable without a link or when it is lost before the confirmation, StoreError
        when Redis forbids a channel.
        """
        subscription = await self.join(*channels)
        try:
            yield subscription
        finally:
            subscription.leave()

    async def join(self, *channels: str) -> Subscription:
        """As `subscribe`, for a reader whose life is no block of code; it must call the subscription's `leave`."""
        await trio.lowlevel.checkpoint()
        if not self.connected:
            raise StoreUnavailable(self._dialer.trouble)
        subscription = Subscription(self._capacity)
        topics = [self._join(channel, subscription) for channel in dict.fromkeys(channels)]
        subscription._leave = partial(self._leave_all, topics, subscription)
        try:
            for topic in topics:
                await self._confirm(topic)
        except BaseException:
            subscription.leave()
            raise
        return subscription

    def _join(self, channel: str, subscription: Subscription) -> _Topic:
        name = channel.encode()
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = _Topic(channel, name)
            assert self._link is not None
            self._link.subscribe(topic)
        topic.subscriptions.add(subscription)
        return topic

    async def _confirm(self, topic: _Topic) -> None:
        if not topic.confirmed:
            await topic.settled.wait()
        if topic.refusal is not None:
            raise StoreError(topic.refusal)
        if not topic.confirmed:
            raise StoreUnavailable(self._dialer.trouble)

    def _leave_all(self, topics: list[_Topic], subscription: Subscription) -> None:
        for topic in topics:
            self._leave(topic, subscription)

    def _leave(self, topic: _Topic, subscription: Subscription) -> None:
        topic.subscriptions.discard(subscription)
        if topic.subscriptions or self._topics.get(topic.name) is not topic:
            return
        del self._topics[topic.name]
        if self._link is not None and topic.refusal is None:
            self._link.unsubscribe(topic)

    def _adopt(self, stream: trio.abc.Stream) -> Link:
        self._link = _FeedLink(stream, self._topics, silence_s=self._call_timeout_s, keepalive_s=self._keepalive_s)
        return self._link


class _Topic:
    """A channel that somebody here listens to."""

    def __init__(self, channel: str, name: bytes) -> None:
        self.channel = channel
        self.name = name
        self.subscriptions: set[Subscription] = set()
        self.confirmed = False
        self.interrupted = False
        self.refusal: str | None = None
        self.settled = trio.Event()

    def confirm(self) -> None:
        self.confirmed = True
        self.settled.set()
        if self.interrupted:
            self.interrupted = False
            for subscription in self.subscriptions:
                subscription._put_gap()

    def interrupt(self) -> None:
        self.interrupted, self.confirmed = True, False
        self.settled.set()
        self.settled = trio.Event()

    def refuse(self, reason: str) -> None:
        self.refusal = reason
        self.end(StoreError(reason))

    def publish(self, payload: bytes) -> None:
        message = Message(self.channel, payload)
        for subscription in self.subscriptions:
            subscription._put(message)

    def end(self, failure: StoreError) -> None:
        self.confirmed = False
        self.settled.set()
        for subscription in self.subscriptions:
            subscription._end(failure)


class _FeedLink(Link):
    """Matches confirmations to requests by their order, and passes messages on.

    One channel to a command: Redis answers a forbidden channel with one error for the whole command.
    """

    def __init__(
        self, stream: trio.abc.Stream, topics: dict[bytes, _Topic], *, silence_s: float, keepalive_s: float
    ) -> None:
        super().__init__(stream, silence_s=silence_s)
        self._topics = topics
        self._keepalive_s = keepalive_s
        self._owing: deque[tuple[bytes, _Topic | None]] = deque()
        for topic in topics.values():
            self.subscribe(topic)

    def subscribe(self, topic: _Topic) -> None:
        """Ask for the messages of a channel; the topic is told of the confirmation."""
        self._request(b"subscribe", topic)

    def unsubscribe(self, topic: _Topic) -> None:
        """Ask for no more messages of a channel."""
        self._request(b"unsubscribe", topic)

    def _request(self, verb: bytes, topic: _Topic | None = None) -> None:
        if not self._owing:
            self._quiet_since = trio.current_time()
        self._owing.append((verb, topic))
        self.send(pack((verb, topic.name) if topic else (verb,)))

    def _parts(self) -> list[Callable[[], Awaitable[None]]]:
        return [*super()._parts(), self._keep_alive]

    async def _keep_alive(self) -> None:
        while True:
            await trio.sleep(self._keepalive_s)
            self._request(b"ping")

    def _deliver(self, reply: Any) -> None:
        if isinstance(reply, list) and reply[0] == b"message":
            topic = self._topics.get(reply[1])
            if topic is not None:
                topic.publish(reply[2])
        else:
            self._settle(reply)

    def _settle(self, reply: Any) -> None:
        if not self._owing:
            raise hiredis.ProtocolError(f"Redis sent what nobody asked for: {reply!r:.100}")
        verb, topic = self._owing.popleft()
        if isinstance(reply, StoreError):
            if topic is not None and verb == b"subscribe":
                topic.refuse(str(reply))
        elif verb != b"ping" and (not isinstance(reply, list) or reply[0] != verb):
            raise hiredis.ProtocolError(f"Redis answered {verb.decode()} with {reply!r:.100}")
        elif topic is not None and verb == b"subscribe":
            topic.confirm()

    def _owed(self) -> bool:
        return bool(self._owing)

    def _release(self, cause: str) -> None:
        for topic in self._topics.values():
            topic.interrupt()
