"""The link of a worker that lives in the server: it calls the store, and the store's events wake it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import trio

from ..errors import StoreError, StoreUnavailable
from ..model.admission import Node, serves_signature
from ..model.events import QueueEvent, RunEvent
from ..model.progress import Progress
from ..model.states import State
from ..store.events import Batch
from ..store.logs import Chunk
from ..store.runs import Assignment, Outcome
from ..store.store import Store
from .lease import LEASE_S, MARGIN_S, now
from .link import Cancel, Claim

__all__ = ["LocalLink"]

LEASE_MS = round(LEASE_S * 1000)
# This process stood still when a reply is so old: what it assigns may be somebody else's, or will soon be.
STALE_CLAIM_S = LEASE_S - MARGIN_S
_RECHECK_S = 30.0
_RETRY_S = 0.5
_RECOVERY_S = 15.0
# Redis writes to its file each second, two at the most when the disk is busy: so much of it may be forgotten, and some.
_REMEMBERED_S = 10.0
_log = logging.getLogger("taskman.worker")


class LocalLink:
    """Serves what `node` says. `run` must be running."""

    def __init__(self, store: Store, node: Node, versions: Mapping[str, str] | None = None) -> None:
        """`versions` are those of the node's task types."""
        self.worker = node.id
        self._store, self._node = store, node
        self._versions = dict(versions or dict.fromkeys(node.types, ""))
        self._signatures: dict[str, None] = {}
        self._ready = trio.Event()
        self._cancels_in, self._cancels_out = trio.open_memory_channel[Cancel | None](1000)
        self._known_redis: str | None = None
        self._checked_link = self._reported_link = -1
        self._forgotten = self._reminded = False
        self._swept_link = -1
        self._claimed: dict[str, int] = {}
        self._recent: deque[tuple[float, Outcome]] = deque(maxlen=5000)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Turn the store's events into wake-ups, for ever."""
        with self._store.events.listen() as batches:
            await self._learn_signatures()
            task_status.started()
            async for batch in batches:
                if batch.gap:
                    await self._learn_signatures()
                    self._cancelled(None)
                self._notice(batch)

    def _notice(self, batch: Batch) -> None:
        for event in batch.events:
            if isinstance(event, QueueEvent):
                self._ready.set()
            if not isinstance(event, RunEvent):
                continue
            if event.state == State.QUEUED and (event.signature in self._signatures or self._serves(event.signature)):
                self._signatures[event.signature] = None
                self._ready.set()
            elif event.state == State.CANCELLING and event.worker == self.worker:
                self._cancelled(Cancel(event.id, force=event.reason == "forced"))

    def _cancelled(self, cancel: Cancel | None) -> None:
        with suppress(trio.WouldBlock):  # the next heartbeat tells the worker all the same
            self._cancels_in.send_nowait(cancel)

    async def _learn_signatures(self) -> None:
        try:
            known = await self._store.runs.signatures()
        except StoreUnavailable:
            return  # the reconnection brings another gap
        self._signatures.update({one: None for one in known if self._serves(one)})
        self._ready.set()

    def _serves(self, signature: str) -> bool:
        return serves_signature(self._node, signature)

    async def claim(self, limit: int) -> Claim:
        """See Link. Asks again at every wake-up, and now and then without one."""
        while True:
            self._ready = trio.Event()
            try:
                claim = await self._claim_now(limit)
            except StoreError as error:
                if not isinstance(error, StoreUnavailable):
                    _log.warning("the store refused a claim: %s", error)
                await trio.sleep(_RETRY_S)
                continue
            if claim.assignments:
                return claim
            with trio.move_on_after(_RECHECK_S):
                await self._ready.wait()

    async def _claim_now(self, limit: int) -> Claim:
        """One call, shielded (the connection bounds it): a claim whose reply is dropped would wait for its lease."""
        if not self._signatures:
            return Claim(now(), [])
        if await self._has_forgotten():
            await self._recover()
        await self._give_back_unheard()
        claimed: list[Assignment] = []
        began = now()
        with trio.CancelScope(shield=True):
            claimed = await self._store.runs.claim(self.worker, limit, self._signatures, lease_ms=LEASE_MS)
            self._claimed.update({one.run_id: one.attempt for one in claimed})
        if claimed and now() - began > STALE_CLAIM_S:
            _log.warning("%d runs were claimed too long ago to start them", len(claimed))
            return Claim(began, [])
        return Claim(began, claimed)

    async def _has_forgotten(self) -> bool:
        """Whether Redis was restarted since this worker told it last what it holds."""
        links = self._store.connection.links
        if self._checked_link != links:
            redis = await self._store.connection.server_id()
            self._forgotten = self._forgotten or self._known_redis not in (None, redis)
            self._known_redis, self._checked_link = redis, links
        return self._forgotten

    async def _recover(self) -> None:
        """After a restart of Redis, which may have forgotten its last second: claims, and results.

        Nothing is claimed until every worker that it knows of has said what it holds, or has had time to.
        """
        _log.warning("Redis was restarted: claims wait until its workers have said what they hold")
        link = self._store.connection.links
        self._cancelled(None)
        began_ms = await self._store.runs.now()
        with trio.move_on_after(_RECOVERY_S):
            while self._reported_link != link or await self._is_silent(began_ms):
                await trio.sleep(_RETRY_S)
        self._forgotten = False

    async def _give_back_unheard(self) -> None:
        """On a new link: a claim whose reply went down with the old one leased runs that nobody executes."""
        links = self._store.connection.links
        if self._swept_link == links:
            return
        leased = await self._store.runs.leased_to(self.worker)
        unheard = [pair for pair in leased if self._claimed.get(pair[0]) != pair[1]]
        if unheard:
            _log.warning("%d runs were claimed by a call whose reply was lost: they go back", len(unheard))
            await self._store.runs.finish(self.worker, [Outcome(*pair, "released") for pair in unheard])
        self._swept_link = links

    async def _remind(self, held: Sequence[tuple[str, int]]) -> None:
        """Tell Redis again what this worker holds, and how what it held lately has ended."""
        since = trio.current_time() - _REMEMBERED_S
        recent = [outcome for at, outcome in self._recent if at >= since]
        ended = [(outcome.run_id, outcome.attempt) for outcome in recent]
        if adopted := await self._store.runs.adopt(self.worker, [*held, *ended], lease_ms=LEASE_MS):
            _log.warning("Redis had forgotten %d claims: they stand again", adopted)
        if recent:
            await self._store.runs.finish(self.worker, recent)

    async def _is_silent(self, since_ms: int) -> bool:
        return any(entry.seen_ms < since_ms for entry in await self._store.workers.live())

    async def finish(self, outcomes: Sequence[Outcome]) -> list[str]:
        """See Link."""
        states = await self._store.runs.finish(self.worker, outcomes)
        for outcome in outcomes:
            if self._claimed.get(outcome.run_id) == outcome.attempt:
                del self._claimed[outcome.run_id]
        self._recent.extend((trio.current_time(), outcome) for outcome in outcomes)
        return states

    async def report(self, running: int, slots: int) -> None:
        """See Link."""
        link = self._store.connection.links
        if await self._has_forgotten() and not self._reminded:
            await self._remind([])
        self._reminded = False
        await self._store.workers.report(replace(self._node, running=running, slots=slots), self._versions)
        self._reported_link = link

    async def extend(self, held: Sequence[tuple[str, int]]) -> list[str]:
        """See Link."""
        if await self._has_forgotten():
            await self._remind(held)
            self._reminded = True
        replies = await self._store.runs.extend(self.worker, held, lease_ms=LEASE_MS)
        for (run_id, attempt), reply in zip(held, replies, strict=True):
            if reply == "drop" and self._claimed.get(run_id) == attempt:
                del self._claimed[run_id]
        return replies

    async def append_log(self, run_id: str, attempt: int, chunks: Sequence[Chunk]) -> bool:
        """See Link."""
        return await self._store.logs.append(run_id, attempt, self.worker, chunks)

    async def progress(self, run_id: str, attempt: int, done: float, total: float | None, message: str | None) -> None:
        """See Link."""
        await self._store.runs.progress(self.worker, [(run_id, attempt, Progress(done, total, message))])

    def cancels(self) -> AsyncIterator[Cancel | None]:
        """See Link."""
        return self._cancels_out
