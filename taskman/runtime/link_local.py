"""The link that calls the store: of a worker that lives in the server, and of the session of a remote one."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import trio

from ..errors import StoreError, StoreUnavailable
from ..model.admission import Node
from ..model.events import RunEvent, WorkerEvent
from ..model.progress import Progress
from ..store.logs import Chunk
from ..store.runs import Assignment, Outcome
from ..store.store import Store
from ..store.workers import About
from .dispatcher import Dispatcher, Seat
from .lease import LEASE_S, MARGIN_S, now
from .link import Cancel, Claim
from .verdict import Standing, judge

__all__ = ["LEASE_MS", "LocalLink"]

LEASE_MS = round(LEASE_S * 1000)
# This process stood still when a reply is so old: what it assigns may be somebody else's, or will soon be.
STALE_CLAIM_S = LEASE_S - MARGIN_S
_RETRY_S = 0.5
_RECOVERY_S = 15.0
# Redis writes to its file each second, two at the most when the disk is busy: so much of it may be forgotten, and some.
_REMEMBERED_S = 10.0
_MOST_REMEMBERED = 5000
_log = logging.getLogger("taskman.worker")

Notice = Cancel | WorkerEvent | None


class LocalLink:
    """Serves what `node` says. `run` must be running."""

    def __init__(
        self,
        store: Store,
        node: Node,
        versions: Mapping[str, str] | None = None,
        *,
        dispatcher: Dispatcher | None = None,
        about: About | None = None,
        tell: Callable[[Notice], None] | None = None,
    ) -> None:
        """`versions` are those of the node's task types. Without a dispatcher it has one of its own.

        `tell` gets what `cancels` would yield, and events about the worker itself; it must not wait.
        """
        self.worker = node.id
        self._store, self._node, self._about = store, node, about or About(node.id)
        self._versions = dict(versions or dict.fromkeys(node.types, ""))
        self._own = Dispatcher(store) if dispatcher is None else None
        self._dispatcher = dispatcher or self._own or Dispatcher(store)
        self._memory = self._dispatcher.memory
        self._seat: Seat | None = None
        self._seated = trio.Event()
        self._cancels_in, self._cancels_out = trio.open_memory_channel[Cancel | None](1000)
        self._tell: Callable[[Notice], None] = tell or self._queue
        self._known_redis: str | None = None
        self._checked_link = self._reported_link = -1
        self._forgotten = self._reminded = False
        self._swept_link = -1
        self._claimed: dict[str, Standing] = {}
        self._recent: deque[tuple[float, Outcome]] = deque(maxlen=_MOST_REMEMBERED)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Have a seat at the dispatcher, for ever."""
        async with trio.open_nursery() as nursery:
            if self._own is not None:
                await nursery.start(self._own.run)
            with self.seated():
                task_status.started()
                await trio.sleep_forever()

    @contextmanager
    def seated(self) -> Iterator[None]:
        """The seat alone, within the block: for who has a task already."""
        with self._dispatcher.seat(self._node, self._hear) as self._seat:
            self._seated.set()
            yield

    def _hear(self, event: RunEvent | WorkerEvent | None) -> None:
        if isinstance(event, RunEvent):
            self._tell(Cancel(event.id, force=event.reason == "forced"))
        else:
            self._tell(event)

    def _queue(self, notice: Notice) -> None:
        if not isinstance(notice, WorkerEvent):
            with suppress(trio.WouldBlock):  # the next heartbeat tells the worker all the same
                self._cancels_in.send_nowait(notice)

    async def claim(self, room: Callable[[], int]) -> Claim:
        """See Link. Asks when the dispatcher calls, or has called; takes nothing while the worker is draining."""
        if self._seat is None:
            await self._seated.wait()
            assert self._seat is not None
        with self._seat.waiting(room):
            while True:
                await self._seat.ready()
                if not self._seat.has_news:
                    await self._seat.called()
                    continue
                try:
                    limit = self._seat.limit
                    claim = await self._claim_now(limit, self._seat)
                except StoreError as error:
                    if not isinstance(error, StoreUnavailable):
                        _log.warning("the store refused a claim: %s", error)
                    await trio.sleep(_RETRY_S)
                    continue
                self._seat.found(claim.assignments, limit)
                if claim.assignments:
                    return claim

    async def _claim_now(self, limit: int, seat: Seat) -> Claim:
        """One call, shielded (the connection bounds it): a claim whose reply is dropped would wait for its lease."""
        signatures, at_once = seat.signatures, seat.is_expecting
        if not signatures:
            return Claim(now(), [])
        if await self._has_forgotten():
            await self._recover()
        await self._give_back_unheard()
        claimed: list[Assignment] = []
        began = now()
        with trio.CancelScope(shield=True):
            claimed = await self._store.runs.claim(self.worker, limit, signatures, lease_ms=LEASE_MS, at_once=at_once)
            self._claimed.update({one.run_id: Standing.of(one) for one in claimed})
        if claimed and now() - began > STALE_CLAIM_S:
            _log.warning("%d runs were claimed too long ago to start them", len(claimed))
            return Claim(began, [])
        return Claim(began, claimed)

    async def take_over(self, held: Sequence[tuple[str, int]], *, is_same_process: bool = False) -> list[str]:
        """See Link. Also of a worker that has just connected to a server, maybe not for the first time.

        What it has leases of besides is gone: its process was started again since, or, if it is the same process,
        never got to hear of it. Raises: StoreUnavailable.
        """
        self._claimed = {run_id: Standing(attempt) for run_id, attempt in held}
        await self._store.runs.adopt(self.worker, held, lease_ms=LEASE_MS)
        await self._give_back_unheard(is_lost=not is_same_process)
        return await self.extend(held)

    async def _has_forgotten(self) -> bool:
        """Whether Redis was restarted since this worker told it last what it holds."""
        links = self._store.connection.links
        if self._checked_link != links:
            redis = await self._memory.redis()
            self._forgotten = self._forgotten or self._known_redis not in (None, redis)
            self._known_redis, self._checked_link = redis, links
        return self._forgotten

    async def _recover(self) -> None:
        """After a restart of Redis, which may have forgotten its last second: claims, and results.

        Nothing is claimed until every worker that it knows of has said what it holds, or has had time to.
        """
        _log.warning("Redis was restarted: claims wait until its workers have said what they hold")
        link = self._store.connection.links
        self._tell(None)
        began_ms = await self._store.runs.now()
        with trio.move_on_after(_RECOVERY_S):
            while self._reported_link != link or not await self._memory.all_heard_since(began_ms):
                await trio.sleep(_RETRY_S)
        self._forgotten = False

    async def _give_back_unheard(self, *, is_lost: bool = False) -> None:
        """On a new link: a claim whose reply went down with the old one leased runs that nobody executes."""
        links = self._store.connection.links
        if self._swept_link == links:
            return
        leased = await self._memory.leased_to(self.worker)
        unheard = [pair for pair in leased if not self._holds(*pair)]
        if unheard and is_lost:
            lost = await self._store.runs.reclaim(self.worker, [run_id for run_id, _ in unheard])
            _log.warning("%d runs were under way when worker %s ended last time: they start again", lost, self.worker)
        elif unheard:
            _log.warning("%d runs were claimed by a call whose reply was lost: they go back", len(unheard))
            await self._store.runs.finish(self.worker, [Outcome(*pair, "released") for pair in unheard])
        self._swept_link = links

    def _holds(self, run_id: str, attempt: int) -> bool:
        standing = self._claimed.get(run_id)
        return standing is not None and standing.attempt == attempt

    async def _remind(self, held: Sequence[tuple[str, int]]) -> None:
        """Tell Redis again what this worker holds, and how what it held lately has ended."""
        since = trio.current_time() - _REMEMBERED_S
        recent = [outcome for at, outcome in self._recent if at >= since]
        ended = [(outcome.run_id, outcome.attempt) for outcome in recent]
        if adopted := await self._store.runs.adopt(self.worker, [*held, *ended], lease_ms=LEASE_MS):
            _log.warning("Redis had forgotten %d claims: they stand again", adopted)
        if recent:
            await self._store.runs.finish(self.worker, recent)

    async def finish(self, outcomes: Sequence[Outcome], *, followed: bool = False) -> list[str]:
        """See Link; `followed`: a claim is about to, see Connection."""
        judged = await judge(outcomes, self._claimed, self._store.runs)
        states = await self._store.runs.finish(self.worker, judged, followed=followed)
        for outcome in judged:
            if self._holds(outcome.run_id, outcome.attempt):
                del self._claimed[outcome.run_id]
        self._remember(judged)
        return states

    def _remember(self, outcomes: Sequence[Outcome]) -> None:
        now = trio.current_time()
        while self._recent and self._recent[0][0] < now - _REMEMBERED_S:
            self._recent.popleft()
        self._recent.extend((now, outcome) for outcome in outcomes)

    async def report(self, running: int, slots: int) -> None:
        """See Link."""
        link = self._store.connection.links
        if await self._has_forgotten() and not self._reminded:
            await self._remind([])
        self._reminded = False
        node = replace(self._node, running=running, slots=slots)
        await self._store.workers.report(node, self._versions, self._about)
        self._reported_link = link

    async def extend(self, held: Sequence[tuple[str, int]]) -> list[str]:
        """See Link."""
        if await self._has_forgotten():
            await self._remind(held)
            self._reminded = True
        replies = await self._store.runs.extend(self.worker, held, lease_ms=LEASE_MS)
        for (run_id, attempt), reply in zip(held, replies, strict=True):
            if reply == "drop" and self._holds(run_id, attempt):
                del self._claimed[run_id]
        return replies

    async def append_log(self, run_id: str, attempt: int, chunks: Sequence[Chunk]) -> bool:
        """See Link."""
        return await self._store.logs.append(run_id, attempt, self.worker, chunks)

    async def log_position(self, run_id: str, attempt: int) -> tuple[int, int]:
        """See Link."""
        return await self._store.logs.position(run_id, attempt)

    async def progress(self, run_id: str, attempt: int, done: float, total: float | None, message: str | None) -> None:
        """See Link."""
        await self._store.runs.progress(self.worker, [(run_id, attempt, Progress(done, total, message))])

    def cancels(self) -> AsyncIterator[Cancel | None]:
        """See Link."""
        return self._cancels_out
