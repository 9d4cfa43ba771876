"""One connection of a worker to a server: what waits to be sent, and who waits for which answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import trio

from ..errors import LinkLost, ProtocolViolation, sole
from . import wire
from .frames import Frames
from .lease import now

__all__ = ["Exchange"]

# A link on which nothing comes for so long although an answer is owed is dead. A server whose Redis hangs answers
# within ten seconds.
SILENCE_S = 12.0
WINDOW_BYTES = 1024 * 1024
"""How much of the logs may be on its way without an acknowledgement."""

Key = tuple[str, int]


class Exchange:
    """Used once: after a loss, another takes its place, and all who waited here have been told."""

    def __init__(self, frames: Frames, deliver: Callable[[Any], None], greeted_at: float) -> None:
        """`deliver` gets every message that answers none of ours; it must not wait.

        `greeted_at`: when the greeting was sent that has been answered, on the clock of `lease.now`.
        """
        self._frames, self._deliver = frames, deliver
        self._outgoing: list[bytes] = []
        self._writable = trio.Event()
        self._heard_at = trio.current_time()
        self.answered_at = greeted_at
        """When the latest heartbeat was sent that has been answered: what comes behind the answer is younger."""
        self._beats: deque[_Answer] = deque()
        self._batches: dict[Key, tuple[_Batch, int]] = {}
        self._logs: dict[Key, _Answer] = {}
        self._in_flight = 0
        self._window = trio.lowlevel.ParkingLot()
        self.lost: str | None = None

    async def run(self) -> None:
        """Carry messages both ways until the connection is lost. Raises: LinkLost, ProtocolViolation, always."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                nursery.start_soon(self._listen_for_silence)
                await self._read()
        except* (LinkLost, ProtocolViolation) as group:
            self.lost = str(sole(group))
        finally:
            self.lost = self.lost or "the connection was closed"
            self._release()
        raise LinkLost(self.lost)

    def post(self, *messages: wire.Message) -> None:
        """Have messages sent together with all else that gathers until the writer's next turn."""
        self._post(map(wire.encode, messages))

    def _post(self, encoded: Iterable[bytes]) -> None:
        self._outgoing.extend(encoded)
        self._writable.set()

    async def beat(self, held: Sequence[wire.Held], load: int) -> wire.Renewed:
        """Say that the worker lives, and what it holds. Raises: LinkLost."""
        answer = self._expect(self._beats)
        self.post(wire.Beat(list(held), load))
        return await answer.wait()  # type: ignore[no-any-return]  # beats are answered by beats

    async def settle(self, messages: Sequence[tuple[Key, bytes]]) -> list[wire.Recorded]:
        """Send outcomes, and wait until each is recorded. Raises: LinkLost; some may be recorded then."""
        batch = _Batch(len(messages))
        self.check()
        for index, (key, _) in enumerate(messages):
            self._batches[key] = (batch, index)
        self._quiet_since()
        self._post(encoded for _, encoded in messages)
        try:
            await batch.wait()
        finally:
            for key, _ in messages:
                self._batches.pop(key, None)
        return batch.answers  # type: ignore[return-value]  # none is missing once `wait` has returned

    async def send_log(self, key: Key, message: bytes, last_seq: int) -> wire.Logged | None:
        """Send chunks up to `last_seq` and wait until they are stored; None when nobody wants them any more.

        One message of an attempt at a time: what is refused must not be overtaken. Waits while too much is on its way.
        Raises: LinkLost; they may be stored then.
        """
        size = len(message)
        while self._in_flight and self._in_flight + size > WINDOW_BYTES and self.lost is None:
            await self._window.park()
        self.check()
        self._in_flight += size
        answer = self._logs[key] = _Answer(last_seq)
        self._quiet_since()
        try:
            self._post([message])
            return await answer.wait()  # type: ignore[no-any-return]  # logs are answered by logged, or by drop
        finally:
            self._in_flight -= size
            self._window.unpark_all()
            if self._logs.get(key) is answer:
                del self._logs[key]

    def _expect(self, answers: deque[_Answer]) -> _Answer:
        self.check()
        self._quiet_since()
        answer = _Answer()
        answers.append(answer)
        return answer

    def check(self) -> None:
        """Raises LinkLost when the connection is gone."""
        if self.lost is not None:
            raise LinkLost(self.lost)

    def _quiet_since(self) -> None:
        if not self._owed():
            self._heard_at = trio.current_time()

    def _owed(self) -> bool:
        return bool(self._beats or self._batches or self._logs)

    async def _read(self) -> None:
        while True:
            frame = await self._frames.receive()
            self._heard_at = trio.current_time()
            for message in wire.read_from_server(frame):
                self._take(message)

    def _take(self, message: Any) -> None:
        if isinstance(message, wire.Recorded):
            batch, index = self._batches.pop((message.run, message.attempt), (None, 0))
            if batch is not None:
                batch.put(index, message)
        elif isinstance(message, wire.Renewed):
            if self._beats:
                answer = self._beats.popleft()
                self.answered_at = answer.asked_at
                answer.put(message)
        elif isinstance(message, wire.Logged):
            waiting = self._logs.get((message.run, message.attempt))
            if waiting is not None and (message.error is not None or message.seq >= waiting.wanted):
                waiting.put(message)
        elif isinstance(message, wire.Error):
            raise LinkLost(f"the server said: {message.detail}")
        else:
            if isinstance(message, wire.Drop) and (waiting := self._logs.get((message.run, message.attempt))):
                waiting.put(None)
            self._deliver(message)

    async def _write(self) -> None:
        while True:
            while not self._outgoing:
                self._writable = trio.Event()
                await self._writable.wait()
            outgoing, self._outgoing = self._outgoing, []
            for frame in wire.frames_of(outgoing):
                await self._frames.send(frame)

    async def _listen_for_silence(self) -> None:
        while True:
            since = self._heard_at if self._owed() else trio.current_time()
            await trio.sleep_until(since + SILENCE_S)
            # After a stop of our own process the answer may be there unread: the reader comes first.
            await trio.lowlevel.checkpoint()
            if self._owed() and trio.current_time() >= self._heard_at + SILENCE_S:
                raise LinkLost(f"no answer for {SILENCE_S:g} s")

    def _release(self) -> None:
        error = LinkLost(self.lost)
        batches = {id(batch): batch for batch, _ in self._batches.values()}
        waiting: list[_Answer | _Batch] = [*self._beats, *self._logs.values(), *batches.values()]
        for one in waiting:
            one.fail(error)
        self._window.unpark_all()


class _Answer:
    """One answer that somebody waits for; of a log, the one for the chunk `wanted` or a later one."""

    def __init__(self, wanted: int = 0) -> None:
        self.wanted, self.asked_at = wanted, now()
        self._event, self._value = trio.Event(), None
        self._error: LinkLost | None = None

    def put(self, value: Any) -> None:
        self._value = value
        self._event.set()

    def fail(self, error: LinkLost) -> None:
        self._error = error
        self._event.set()

    async def wait(self) -> Any:
        await self._event.wait()
        if self._error is not None:
            raise LinkLost(str(self._error))
        return self._value


class _Batch:
    """Answers to many messages that somebody waits for together."""

    def __init__(self, count: int) -> None:
        self.answers: list[wire.Recorded | None] = [None] * count
        self._missing, self._event = count, trio.Event()
        self._error: LinkLost | None = None

    def put(self, index: int, answer: wire.Recorded) -> None:
        self.answers[index] = answer
        self._missing -= 1
        if self._missing == 0:
            self._event.set()

    def fail(self, error: LinkLost) -> None:
        self._error = error
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        if self._error is not None and self._missing:
            raise LinkLost(str(self._error))
