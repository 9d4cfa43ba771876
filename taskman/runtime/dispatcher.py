"""The dispatcher: hears of work for every worker of a server, and wakes as many of them as there is work for.

Each worker that waits has a seat. An event of a queued run calls one seat that serves it, not all of them. Whoever is
called owes an answer: if it cannot see to what it was called for, the call is passed on, so that none is lost. What
several servers do at once needs no agreement: the claim script decides. For what this process itself submits a seat is
called before: see foresight.py.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import trio

from ..errors import StoreError
from ..model.admission import Node, serves_signature, worker_named
from ..model.events import Event, QueueEvent, RunEvent, WorkerEvent
from ..model.states import State
from ..store.events import Batch
from ..store.runs import Assignment, Submission
from ..store.store import Store
from .foresight import Foresight
from .memory import Memory
from .pins import Pins

__all__ = ["Dispatcher", "Seat"]

_RECHECK_S = 30.0
# A call for whatever there may be.
_ANYTHING = "*"
# Who finds more work than it can take calls two others: a backlog then reaches a thousand workers in ten steps.
_PASSED_ON = 2
# A call ahead of the submit saves time for a few; of many, the first claims are under way before the last has arrived.
_MOST_FORESEEN = 20

_Likeness = tuple[frozenset[str], frozenset[str] | None, frozenset[tuple[str, str]]]
Tell = Callable[[RunEvent | WorkerEvent | None], None]


class _Crew:
    """The workers that serve the same: `signatures` that are known, and the seats that wait, the longest first.

    `calls` counts what there was to call for, whether or not somebody was waiting.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.size = self.calls = 0
        self.signatures: dict[str, None] = {}
        self.waiting: dict[Seat, None] = {}

    def learn(self, signatures: Iterable[str]) -> None:
        self.signatures.update({one: None for one in signatures if serves_signature(self.node, one)})

    def call(self, what: str, room: int) -> int:
        """Call seats for so many runs; how many of them nobody was left for."""
        self.calls += 1
        while room > 0 and self.waiting:
            seat = next(iter(self.waiting))
            room -= seat.limit
            seat.call(what)
        return room


class Seat:
    """Where one worker waits. `tell` hears of its cancelled runs, of its drain, and None when some may be missed."""

    def __init__(self, dispatcher: Dispatcher, node: Node, crew: _Crew, tell: Tell) -> None:
        self.worker, self.tell = node.id, tell
        self._room: Callable[[], int] = lambda: 0
        self.node = node
        self._dispatcher, self._crew = dispatcher, crew
        self._owed: str | None = None
        self._called: str | None = None
        self._woken = trio.Event()
        self._calls_alone = 0
        self._asked_at = self._exhausted_at = (-1, -1)
        self._coming: dict[str, str] = {}
        self._expected: dict[str, str] = {}

    @property
    def signatures(self) -> dict[str, None]:
        """What there has been that this worker serves, with its crew or alone."""
        pinned = self._dispatcher.pins.of(self.node)
        return {**self._crew.signatures, **pinned} if pinned else self._crew.signatures

    @property
    def limit(self) -> int:
        """How many it can take now; whoever waits takes one."""
        return max(1, self._room())

    @property
    def is_waiting(self) -> bool:
        return self in self._crew.waiting

    @property
    def is_expecting(self) -> bool:
        """Whether it asks for runs that are on their way to Redis: their submit waits for its claim."""
        return bool(self._expected)

    @property
    def has_news(self) -> bool:
        """False while the store is known to have nothing: it gave all it had, and nobody has been called since."""
        return self._owed is not None or self._exhausted_at != (self._crew.calls, self._calls_alone)

    @contextmanager
    def waiting(self, room: Callable[[], int]) -> Iterator[None]:
        """Wait for up to `room()` runs within the block; what it was called for and did not see to is passed on."""
        self._room = room
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
        self._expected |= self._coming
        self._coming.clear()
        self._woken = trio.Event()
        self._crew.waiting[self] = None
        self._asked_at = self._crew.calls, self._calls_alone

    def found(self, claimed: Sequence[Assignment], limit: int) -> None:
        """The store has been asked for up to `limit` runs and gave these. Fewer: there was no more."""
        if len(claimed) < limit:
            self._owed, self._exhausted_at = None, self._asked_at
        if self._expected:
            self._settle({one.run_id for one in claimed})

    async def called(self) -> None:
        """Return when there may be something again."""
        await self._woken.wait()

    def call(self, what: str) -> None:
        """Wake it for a signature, or for anything."""
        self._crew.waiting.pop(self, None)
        self._called = what
        self._woken.set()

    def expect(self, signature: str, run_ids: Iterable[str]) -> None:
        """Wake it for runs that are on their way to Redis: they are there when its claim is."""
        self.call(signature)
        self._coming.update(dict.fromkeys(run_ids, signature))

    def call_alone(self, what: str) -> None:
        """Wake it, if it waits, for what nobody else may have."""
        self._calls_alone += 1
        if self.is_waiting:
            self.call(what)

    def wake(self) -> None:
        """Let it look around: its drain is over, or has begun."""
        self._woken.set()

    def _settle(self, claimed: Iterable[str]) -> None:
        expected, self._expected = self._expected, {}
        for run_id in self._dispatcher.foresight.settle(expected, set(claimed)):
            self._dispatcher.call(expected[run_id], 1)

    def _pass_on(self) -> None:
        if self._expected or self._coming:
            self._expected |= self._coming
            self._coming.clear()
            self._settle(())
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
        self.foresight = Foresight()
        self.memory = Memory(store)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Turn the store's events into calls, for ever."""
        topics = State.QUEUED, State.CANCELLING, QueueEvent, WorkerEvent
        with self._store.events.listen(*topics) as batches, self._foreseeing():
            await self._look_around()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._recheck)
                task_status.started()
                async for batch in batches:
                    if batch.gap:
                        self.foresight.forget()
                        await self._look_around()
                    self._notice(batch)

    @contextmanager
    def _foreseeing(self) -> Iterator[None]:
        self._store.runs.before_submit.add(self.foresee)
        try:
            yield
        finally:
            self._store.runs.before_submit.discard(self.foresee)

    def foresee(self, submissions: Sequence[Submission]) -> bool:
        """Call a seat for what is about to be submitted, so that its claim leaves with it. Whether there is one."""
        is_called = False
        wanted: dict[str, list[str]] = defaultdict(list)
        for one in submissions[: _MOST_FORESEEN + 1]:
            if one.due_ms == 0:
                wanted[one.spec.signature].append(one.id)
        for signature, run_ids in wanted.items() if len(submissions) <= _MOST_FORESEEN else ():
            seat = self._first_waiting(signature)
            if seat is not None:
                self.foresight.expect(run_ids)
                seat.expect(signature, run_ids)
                is_called = True
        return is_called

    def _first_waiting(self, signature: str) -> Seat | None:
        if worker_named(signature) is not None:
            return None
        return next((next(iter(crew.waiting)) for crew in self._crews_for(signature) if crew.waiting), None)

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
                queued[event.signature] += event.attempt > 0 or self.foresight.heard(event.id)
            else:
                self._notice_other(event)
        for signature, count in queued.items():
            if count:
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
            seat.call_alone(signature)

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
            if self.pins.of(seat.node):
                seat.call_alone(_ANYTHING)

    async def _recheck(self) -> None:
        while True:
            await trio.sleep(_RECHECK_S * random.uniform(0.8, 1.2))
            self._call_every_crew()


def _likeness(node: Node) -> _Likeness:
    return node.types, node.queues, frozenset(node.labels.items())
