"""The link of a worker on another machine: messages to any server, and a spool for as long as none is there."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import trio

from ..errors import (
    Conflict,
    Forbidden,
    LinkLost,
    ProtocolViolation,
    RequestRefused,
    ServerUnreachable,
    ServerUntrusted,
    StoreError,
    StoreUnavailable,
    Unauthenticated,
)
from ..model.admission import Node
from ..model.description import TypeDescription
from ..store.logs import Chunk
from ..store.runs import Assignment, Outcome
from . import wire
from .exchange import Exchange
from .frames import Frames
from .lease import now
from .link import Cancel, Claim
from .messages import assignment_of, described, encoded_outcome, in_portions, log_messages, refusal_of
from .positions import LogPositions
from .replay import replay
from .spool import Key, Spool

__all__ = ["RemoteLink"]

WELCOME_S = 15.0
# Leases outlive an outage of half a minute: come back well within that, and do not hammer afterwards.
_SOON_S, _LATER_S, _LONG_OUTAGE_S = 3.0, 30.0, 60.0
_REFUSED_S = 30.0
_REFUSALS = (Unauthenticated, Forbidden, Conflict, RequestRefused)
_log = logging.getLogger("taskman.worker")

Dial = Callable[[], AbstractAsyncContextManager[Frames]]


class RemoteLink:
    """Serves what `node` says, over connections that `dial` opens. `run` must be running."""

    def __init__(
        self,
        dial: Dial,
        node: Node,
        versions: Mapping[str, str],
        spool: Spool,
        *,
        name: str = "",
        descriptions: Sequence[TypeDescription] = (),
    ) -> None:
        """`name` is what people call the worker; its id by default. `descriptions` are those of its task types."""
        self.worker = node.id
        self._dial, self._node, self._versions, self._spool = dial, node, dict(versions), spool
        self._descriptions = described(descriptions)
        self._name, self._boot = name or node.id, f"{random.getrandbits(64):016x}"
        self._held: dict[str, int] = {}
        self._positions = LogPositions()
        self._load = 0
        self._arrived: deque[tuple[float, Assignment]] = deque()
        self._something_arrived = trio.Event()
        self._want: int | None = None
        self._room: Callable[[], int] | None = None
        self._takes_no_more = False
        self._exchange: Exchange | None = None
        self._cancels_in, self._cancels_out = trio.open_memory_channel[Cancel | None](1000)
        self._dropped: set[Key] = set()
        self._spooled = trio.Event()
        self._beat_at = 0.0
        self.has_been_welcome = False
        self._welcome_at = 0.0

    # Connecting.

    async def run(self, *, version: str = "", task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Stay connected, for ever.

        Raises: Unauthenticated, Forbidden, Conflict or RequestRefused when the very first server that answers refuses
        the token, or the worker; ServerUntrusted when its certificate does not pass.
        """
        for entry in await trio.to_thread.run_sync(self._spool.load):
            if entry.key in self._positions:
                await trio.to_thread.run_sync(self._positions.read, self._spool, entry.key)
            elif not entry.has_result:  # its process ended before it did
                await self._spool.add_result(entry.key, wire.encode(wire.Done(*entry.key, "lost")))
        task_status.started()
        away_since, failures = trio.current_time(), 0
        while True:
            began = trio.current_time()
            try:
                await self._connect(version)
            except (LinkLost, ProtocolViolation, ServerUnreachable) as error:
                if isinstance(error, ServerUntrusted) and not self.has_been_welcome:
                    raise
                if self.has_been_welcome and self._welcome_at >= began:
                    away_since, failures = trio.current_time(), 0
                wait_s = self._pause_s(failures, trio.current_time() - away_since)
                self._note(error, failures, wait_s)
            except _REFUSALS as error:
                if not self.has_been_welcome:
                    raise
                wait_s = _REFUSED_S * random.uniform(0.8, 1.2)
                _log.error("%s; trying again in %.0f s", error, wait_s)
            failures += 1
            await trio.sleep(wait_s)

    def _pause_s(self, failures: int, away_s: float) -> float:
        """Full jitter: a thousand workers must not come back in one moment."""
        longest = _SOON_S if away_s < _LONG_OUTAGE_S else _LATER_S
        return random.uniform(0, min(longest, 0.25 * 2.0 ** min(failures, 10)))

    def _note(self, error: Exception, failures: int, wait_s: float) -> None:
        if failures in (0, 3) or failures % 20 == 0:
            _log.warning("not connected (%s): trying again; what runs goes on", error)
        else:
            _log.debug("not connected (%s): trying again in %.1f s", error, wait_s)

    async def _connect(self, version: str) -> None:
        async with self._dial() as frames:
            greeted_at = now()
            welcome, more = await self._greet(frames, version)
            exchange = Exchange(frames, self._deliver, greeted_at)
            _log.info("connected to server %s", welcome.server)
            self.has_been_welcome, self._welcome_at = True, trio.current_time()
            self._exchange = exchange
            try:
                self._begin(exchange, welcome, more)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._replay, exchange)
                    with suppress(LinkLost):
                        await exchange.run()
                    nursery.cancel_scope.cancel()
            finally:
                self._exchange = None
            raise LinkLost(exchange.lost)

    async def _greet(self, frames: Frames, version: str) -> tuple[wire.Welcome, list[Any]]:
        queues = None if self._node.queues is None else sorted(self._node.queues)
        hello = wire.Hello(
            id=self.worker,
            slots=self._node.slots,
            types=self._versions,
            name=self._name,
            version=version,
            queues=queues,
            labels=dict(self._node.labels),
            held=self._everything_held(),
            boot=self._boot,
            descriptions=self._descriptions,
        )
        answer = b""
        with trio.move_on_after(WELCOME_S):
            for frame in wire.frames_of([wire.encode(hello)]):
                await frames.send(frame)
            answer = await frames.receive()
        if not answer:
            raise LinkLost(f"no welcome within {WELCOME_S:g} s")
        first, *more = wire.read_from_server(answer)
        if isinstance(first, wire.Error):
            raise refusal_of(first)
        if not isinstance(first, wire.Welcome):
            raise ProtocolViolation("the server did not begin with 'welcome'")
        return first, more

    def _begin(self, exchange: Exchange, welcome: wire.Welcome, more: Sequence[Any]) -> None:
        """Ask for the state of everything held, and for work again."""
        self._positions.hear(welcome.keep)
        for message in more:
            self._deliver(message)
        self._cancel(None)
        if self._want is not None:
            self._want = self._free()
            exchange.post(wire.Want(self._want))

    def _everything_held(self) -> list[wire.Held]:
        held = {**{key[0]: key[1] for key in (entry.key for entry in self._spool)}, **self._held}
        return [wire.Held(run_id, attempt) for run_id, attempt in held.items()]

    @property
    def _live(self) -> Exchange | None:
        """The connection, unless it is lost already and only being put away."""
        return None if self._exchange is None or self._exchange.lost else self._exchange

    def _require(self) -> Exchange:
        exchange = self._live
        if exchange is None:
            raise StoreUnavailable("no server is connected")
        return exchange

    # What comes from the server.

    def _deliver(self, message: Any) -> None:
        if isinstance(message, wire.Assign):
            self._arrive(message)
        elif isinstance(message, wire.Cancel):
            self._cancel(Cancel(message.run, force=message.force))
        elif isinstance(message, wire.Drop):
            self._dropped.add((message.run, message.attempt))
            self._cancel(None)
        elif isinstance(message, wire.Drain):
            _log.info("draining: the server sends nothing new until somebody resumes this worker")
        elif isinstance(message, wire.Resume):
            _log.info("resumed")

    def _cancel(self, cancel: Cancel | None) -> None:
        with suppress(trio.WouldBlock):  # the next heartbeat tells the worker all the same
            self._cancels_in.send_nowait(cancel)

    def _arrive(self, message: wire.Assign) -> None:
        exchange, runs = self._require(), message.runs
        if self._takes_no_more:
            exchange.post(*(wire.Release(one.run, one.attempt) for one in runs))
            return
        # However long it was under way: it was sent after the latest answer, and that after what it answers.
        began = exchange.answered_at - message.age
        for one in runs:
            self._held[one.run] = one.attempt
            self._dropped.discard((one.run, one.attempt))
            self._arrived.append((began, assignment_of(one)))
        if self._want is not None:
            self._want = max(0, self._want - len(runs))
        self._something_arrived.set()

    # What the worker asks for: see Link.

    async def take_over(self, held: Sequence[tuple[str, int]]) -> list[str]:
        """See Link. The first server hears of it; until then all of it is kept."""
        self._held, self._positions = dict(held), LogPositions(held)
        return ["keep"] * len(held)

    async def log_position(self, run_id: str, attempt: int) -> tuple[int, int]:
        """See Link. Lines are numbered by the server."""
        return await self._positions.get((run_id, attempt)), 1

    async def claim(self, room: Callable[[], int]) -> Claim:
        """See Link. Cancellation means that the worker takes nothing new any more."""
        self._room = room
        try:
            while not self._arrived:
                self._something_arrived = trio.Event()
                self._say_want()
                await self._something_arrived.wait()
        except trio.Cancelled:
            self._take_no_more()
            raise
        finally:
            self._room = None
        taken = [self._arrived.popleft() for _ in range(min(max(1, room()), len(self._arrived)))]
        return Claim(min(began for began, _ in taken), [assignment for _, assignment in taken])

    def _say_want(self) -> None:
        """Tell the server how much more the worker would take, unless it knows."""
        want = self._free()
        if want in (0, self._want):
            return
        self._want = want
        if (exchange := self._live) is not None:
            exchange.post(wire.Want(want))

    def _free(self) -> int:
        """How many more it would take; none while it is not waiting for any."""
        return 0 if self._room is None else max(0, self._room() - len(self._arrived))

    def _take_no_more(self) -> None:
        self._want, self._takes_no_more = None, True
        unstarted = [(one.run_id, one.attempt) for _, one in self._arrived]
        self._arrived.clear()
        for key in unstarted:
            self._let_go(key)  # without a connection: the next server hears that they are not held
        if (exchange := self._live) is not None:
            exchange.post(wire.Want(0), *(wire.Release(*key) for key in unstarted))

    async def finish(self, outcomes: Sequence[Outcome]) -> list[str]:
        """See Link. What no server takes is spooled."""
        states: list[str] = []
        for part in in_portions([(outcome, encoded_outcome(outcome)) for outcome in outcomes]):
            states += await self._settle([((one.run_id, one.attempt), encoded) for one, encoded in part])
        return states

    async def _settle(self, messages: Sequence[tuple[Key, bytes]]) -> list[str]:
        exchange, found = self._live, {}
        direct = [] if exchange is None else [one for one in messages if one[0] not in self._spool]
        if exchange is not None and direct:
            self._say_want()
            with suppress(LinkLost):
                for answer in await exchange.settle(direct):
                    if answer.error is not None or answer.state is None:
                        raise StoreUnavailable(answer.error or "the server could not record it")
                    found[answer.run, answer.attempt] = answer.state
        for key, encoded in messages:
            if key not in found:
                await self._spool.add_result(key, encoded)
                self._spooled.set()
            self._let_go(key)
        return [found.get(key, "spooled") for key, _ in messages]

    def _let_go(self, key: Key) -> None:
        self._dropped.discard(key)
        if self._held.get(key[0]) == key[1]:
            del self._held[key[0]]

    async def extend(self, held: Sequence[tuple[str, int]]) -> list[str]:
        """See Link. What is spooled is renewed along with it."""
        answer = await self._beat()
        keep, drop = ({(one.run, one.attempt) for one in part} for part in (answer.keep, answer.drop))
        for key in drop:
            self._let_go(key)
        replies = ["keep" if pair in keep else "drop" if pair in drop else "" for pair in held]
        if "" in replies:
            raise StoreUnavailable(answer.error or "the server renewed only some of the leases")
        return replies

    async def _beat(self) -> wire.Renewed:
        exchange = self._require()
        self._beat_at = trio.current_time()
        try:
            return await exchange.beat(self._everything_held(), self._load)
        except LinkLost as error:
            raise StoreUnavailable(str(error)) from None

    async def report(self, running: int, slots: int) -> None:
        """See Link. A beat that has just been sent says enough."""
        self._load = running
        if trio.current_time() > self._beat_at + 1.0 and (answer := await self._beat()).error is not None:
            raise StoreUnavailable(answer.error)

    async def append_log(self, run_id: str, attempt: int, chunks: Sequence[Chunk]) -> bool:
        """See Link. What no server takes is spooled, and so is what comes behind it."""
        key, messages = (run_id, attempt), list(log_messages(run_id, attempt, chunks))
        while messages and key not in self._dropped:
            exchange = self._live
            if exchange is None or key in self._spool:
                await self._spool.add_log(key, [message for message, _ in messages])
                self._spooled.set()
                return True
            with suppress(LinkLost):
                answer = await exchange.send_log(key, *messages[0])
                if answer is None:
                    return False
                if answer.error is not None:
                    raise StoreError(answer.error) if answer.full else StoreUnavailable(answer.error)
                del messages[0]
        return key not in self._dropped

    async def progress(self, run_id: str, attempt: int, done: float, total: float | None, message: str | None) -> None:
        """See Link. Nobody answers; the next one says it better."""
        await trio.lowlevel.checkpoint()
        self._require().post(wire.Progress(run_id, attempt, done, total, message))

    def cancels(self) -> AsyncIterator[Cancel | None]:
        """See Link."""
        return self._cancels_out

    async def leave(self, timeout_s: float) -> None:
        """Say that the worker has stopped, if a server is there to hear it."""
        exchange = self._live
        if exchange is None or len(self._spool):
            return
        with trio.move_on_after(timeout_s), suppress(LinkLost):
            exchange.post(wire.Bye())
            await exchange.beat([], 0)  # its answer is that the server hangs up

    async def _replay(self, exchange: Exchange) -> None:
        """Deliver what is spooled, now and whenever something is added."""
        while True:
            self._spooled = trio.Event()
            with suppress(LinkLost):
                await replay(self._spool, exchange)
            if exchange.lost is not None:
                return
            await self._spooled.wait()
