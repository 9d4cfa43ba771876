"""The dispatcher: hears of work for every worker of a server, and wakes as many of them as there is work for.

Each worker that waits has a seat. An event of a queued run calls one seat that serves it, not all of them. Whoever is
called owes an answer: if it cannot see to what it was called for, the call is passed on, so that none is lost. What
several servers do at once needs no agreement: the claim script decides.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import trio

from ..errors import StoreError
from ..model.admission import Node, serves_signature, worker_named
from ..model.events import Event, QueueEvent, RunEvent, WorkerEvent
from ..model.states import State
from ..store.events import Batch
from ..store.store import Store
from .pins import Pins

__all__ = ["Dispatcher", "Seat"]

_RECHECK_S = 30.0
_CENSUS_S = 0.5
# A call for whatever there may be.
_ANYTHING = "*"
# Who finds more work than it can take calls two others: a backlog then reaches a thousand workers in ten steps.
_PASSED_ON = 2

_Likeness = tuple[frozenset[str], frozenset[str] | None, frozenset[tuple[str, str]]]
Tell = Callable[[RunEvent | WorkerEvent | None], None]


class _Crew:
    """The workers that serve the same: `signatures` that are known, and the seats that wait, the longest first."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.size = 0
        self.signatures: dict[str, None] = {}
        self.waiting: dict[Seat, None] = {}

    def learn(self, signatures: Iterable[str]) -> None:
        self.signatures.update({one: None for one in signatures if serves_signature(self.node, one)})

    def call(self, what: str, room: int) -> int:
        """Call seats for so many runs; how many of them nobody was left for."""
        while room > 0 and self.waiting:
            seat = next(iter(self.waiting))
            room -= seat.limit
            seat.call(what)
        return room


class Seat:
    """Where one worker waits. `tell` hears of its cancelled runs, of its drain, and None when some may be missed."""

    def __init__(self, dispatcher: Dispatcher, node: Node, crew: _Crew, tell: Tell) -> None:
        self.worker, self.tell, self.limit = node.id, tell, 0
        self.node = node
        self._dispatcher, self._crew = dispatcher, crew
        self._owed: str | None = None
        self._called: str | None = None
        self._woken = trio.Event()

    @property
    def signatures(self) -> dict[str, None]:
        """What there has been that this worker serves, with its crew or alone."""
        pinned = self._dispatcher.pins.of(self.node)
        return {**self._crew.signatures, **pinned} if pinned else self._crew.signatures

    @property
    def is_waiting(self) -> bool:
        return self in self._crew.waiting

    @contextmanager
    def waiting(self, limit: int) -> Iterator[None]:
        """Wait for up to `limit` runs within the block; what it was called for and did not see to is passed on."""
        self.limit = limit
        try:
            yield
        finally:
            self._crew.waiting.pop(self, None)
            self._pass_on()

    async def ready(self) -> None:
        """Return when asking the store makes sense as far as this worker goes: at once, unless it is draining.

        From now on, calls are noted: what is queued while the store is being asked is not missed.
        """
        while self._dispatcher.is_draining(self.worker):
            self._crew.waiting.pop(self, None)
            self._pass_on()
            await self._woken.wait()
            self._woken = trio.Event()
        self._owed, self._called = self._called or self._owed, None
        self._woken = trio.Event()
        self._crew.waiting[self] = None

    def found(self, count: int) -> None:
        """The store has been asked and gave so many runs. Fewer than the limit: there was no more."""
        if count < self.limit:
            self._owed = None

    async def called(self) -> None:
        """Return when there may be something again."""
        await self._woken.wait()

    def call(self, what: str) -> None:
        """Wake it for a signature, or for anything."""
        self._crew.waiting.pop(self, None)
        self._called = what
        self._woken.set()

    def wake(self) -> None:
        """Let it look around: its drain is over, or has begun."""
        self._woken.set()

    def _pass_on(self) -> None:
        owed, self._owed, self._called = self._called or self._owed, None, None
        if owed == _ANYTHING:
            self._crew.call(owed, _PASSED_ON)
        elif owed is not None:
            self._dispatcher.call(owed, _PASSED_ON)


class Dispatcher:
    """One for each server. `run` must be running."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._crews: dict[_Likeness, _Crew] = {}
        self._seats: dict[str, set[Seat]] = {}
        self._known: dict[str, None] = {}
        self.pins = Pins()
        self._serving: dict[str, list[_Crew]] = {}
        self._draining: set[str] = set()
        self.memory = Memory(store)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Turn the store's events into calls, for ever."""
        with self._store.events.listen(RunEvent, QueueEvent, WorkerEvent) as batches:
            await self._look_around()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._recheck)
                task_status.started()
                async for batch in batches:
                    if batch.gap:
                        await self._look_around()
                    self._notice(batch)

    @contextmanager
    def seat(self, node: Node, tell: Tell) -> Iterator[Seat]:
        """A seat for a worker, for as long as it is connected."""
        crew = self._join(node)
        seat = Seat(self, node, crew, tell)
        seats = self._seats.setdefault(node.id, set())
        seats.add(seat)
        try:
            yield seat
        finally:
            seats.discard(seat)
            if not seats and self._seats.get(node.id) is seats:
                del self._seats[node.id]
            self._leave(node, crew)

    def is_draining(self, worker: str) -> bool:
        """Whether that worker is to take nothing new."""
        return worker in self._draining

    def call(self, signature: str, room: int) -> None:
        """Call seats for so many runs of a signature."""
        if not self.pins.learn([signature]):
            self._call_alone(worker_named(signature) or "", signature)
            return
        for crew in self._crews_for(signature):
            room = crew.call(signature, room)

    def _join(self, node: Node) -> _Crew:
        likeness = _likeness(node)
        crew = self._crews.get(likeness)
        if crew is None:
            crew = self._crews[likeness] = _Crew(node)
            crew.learn(self._known)
            self._serving.clear()
        crew.size += 1
        return crew

    def _leave(self, node: Node, crew: _Crew) -> None:
        crew.size -= 1
        if crew.size == 0:
            del self._crews[_likeness(node)]
            self._serving.clear()

    def _crews_for(self, signature: str) -> list[_Crew]:
        if signature not in self._known:
            self._known[signature] = None
            for crew in self._crews.values():
                crew.learn([signature])
        if signature not in self._serving:
            self._serving[signature] = [crew for crew in self._crews.values() if signature in crew.signatures]
        return self._serving[signature]

    def _notice(self, batch: Batch) -> None:
        queued: Counter[str] = Counter()
        for event in batch.events:
            if isinstance(event, RunEvent) and event.state == State.QUEUED:
                queued[event.signature] += 1
            else:
                self._notice_other(event)
        for signature, count in queued.items():
            self.call(signature, count)

    def _notice_other(self, event: Event) -> None:
        if isinstance(event, RunEvent):
            if event.state == State.CANCELLING:
                self._tell(event.worker or "", event)
        elif isinstance(event, WorkerEvent):
            self._heed(event)
        elif isinstance(event, QueueEvent):
            self._call_every_crew()

    def _heed(self, event: WorkerEvent) -> None:
        if event.change == "drain":
            self._draining.add(event.id)
        else:
            self._draining -= {event.id} if event.change in ("resume", "stopped") else set()
        self._tell(event.id, event)
        for seat in self._seats.get(event.id, ()):
            seat.wake()

    def _call_alone(self, worker: str, signature: str) -> None:
        for seat in list(self._seats.get(worker, ())):
            if seat.is_waiting:
                seat.call(signature)

    def _tell(self, worker: str, event: RunEvent | WorkerEvent | None) -> None:
        for seat in list(self._seats.get(worker, ())):
            seat.tell(event)

    async def _look_around(self) -> None:
        """Learn afresh what events tell of: at the start, and when some were missed."""
        try:
            signatures, draining = await self._store.runs.signatures(), await self._store.workers.draining()
        except StoreError:
            return  # the reconnection brings another gap
        before, self._draining = self._draining, draining
        shared = self.pins.learn(signatures)
        self._known.update(dict.fromkeys(shared))
        self._serving.clear()
        for crew in self._crews.values():
            crew.learn(shared)
        for worker in list(self._seats):
            self._tell(worker, None)
        for worker in before ^ draining:
            self._heed(WorkerEvent(worker, "drain" if worker in draining else "resume"))
        self._call_every_crew()

    def _call_every_crew(self) -> None:
        """One seat of each, and everybody who may have something that nobody else can claim."""
        for crew in self._crews.values():
            crew.call(_ANYTHING, 1)
        for seat in [seat for seats in self._seats.values() for seat in seats] if self.pins else ():
            if seat.is_waiting and self.pins.of(seat.node):
                seat.call(_ANYTHING)

    async def _recheck(self) -> None:
        while True:
            await trio.sleep(_RECHECK_S * random.uniform(0.8, 1.2))
            self._call_every_crew()


class Memory:
    """What the workers of a server ask of Redis about their past, asked once for all of them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._redis = ""
        self._link = -1
        self._scanning, self._counting = trio.Lock(), trio.Lock()
        self._leases: dict[str, list[tuple[str, int]]] = {}
        self._scanned_at = self._counted_at = -1.0
        self._oldest_ms: int | None = None

    async def redis(self) -> str:
        """Which Redis this is: another id means that it was started again. Raises StoreUnavailable."""
        link = self._store.connection.links
        if self._link != link:
            self._redis = await self._store.connection.server_id()
            self._link = link
        return self._redis

    async def leased_to(self, worker: str) -> list[tuple[str, int]]:
        """What that worker has leases of, as of now or later. Raises StoreUnavailable.

        All who ask while one look at the leases is under way share the next: a thousand workers come back at once.
        """
        asked_at = trio.current_time()
        async with self._scanning:
            if self._scanned_at < asked_at:
                began = trio.current_time()
                self._leases = await self._store.runs.leases()
                self._scanned_at = began
        return self._leases.get(worker, [])

    async def all_heard_since(self, since_ms: int) -> bool:
        """Whether each live worker has been heard of since then. Raises StoreUnavailable."""
        async with self._counting:
            if self._counted_at < trio.current_time() - _CENSUS_S:
                self._oldest_ms = await self._store.workers.oldest_report_ms()
                self._counted_at = trio.current_time()
        return self._oldest_ms is None or self._oldest_ms >= since_ms


def _likeness(node: Node) -> _Likeness:
    return node.types, node.queues, frozenset(node.labels.items())
