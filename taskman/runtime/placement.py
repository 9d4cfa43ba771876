"""Placement: turns a run with `place: all` into one child on each worker when its turn comes.

Any number of servers may run one; the script decides which of them was first. An event wakes it; only while something
waits for a worker does it look again now and then.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

import trio

from ..errors import StoreError
from ..model.admission import Node, is_placed, signature_for
from ..model.events import PlaceEvent, QueueEvent, WorkerEvent
from ..model.states import State
from ..store.events import Listener
from ..store.store import Store

__all__ = ["Placement"]

_RECHECK_S = 5.0
_LOOK_AFTER_S = 30.0
_RETRY_S = 0.5
_BATCH = 20
# A child is given up when the worker that it is pinned to has been away for so long; most come back from a restart.
_PATIENCE_S = 300.0
_log = logging.getLogger("taskman.placement")


class Placement:
    """Expands placed runs whose turn it is, and ends children whose worker does not come back within `patience_s`."""

    def __init__(self, store: Store, *, patience_s: float = _PATIENCE_S) -> None:
        self._store, self._patience_s = store, patience_s
        self._signatures: set[str] = set()
        self._woken = trio.Event()
        self._waits = False
        self._away_since: dict[str, float] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Place and look after children for ever. Cancellation between two scripts loses nothing."""
        with self._store.events.listen(PlaceEvent, QueueEvent, WorkerEvent) as listener:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, listener)
                nursery.start_soon(self._look_after)
                task_status.started()
                self._signatures.update(await self._known())
                while True:
                    await self._turn()

    async def _watch(self, listener: Listener) -> None:
        async for batch in listener:
            if batch.gap:
                self._signatures.update(await self._known())
            self._signatures.update(event.signature for event in batch.events if isinstance(event, PlaceEvent))
            self._woken.set()

    async def _known(self) -> list[str]:
        try:
            return [one for one in await self._store.runs.signatures() if is_placed(one)]
        except StoreError:
            return []  # the reconnection brings another gap

    async def _turn(self) -> None:
        self._woken, self._waits = trio.Event(), False
        try:
            await self._place_all()
        except StoreError as error:
            _log.warning("the store refused: %s", error)
            await trio.sleep(_RETRY_S)
            return
        with trio.move_on_after(_RECHECK_S * random.uniform(0.8, 1.2) if self._waits else 1e9):
            await self._woken.wait()

    async def _place_all(self) -> None:
        ready = [one for one in sorted(self._signatures) if await self._store.placements.ready(one, 1)]
        if not ready:
            return
        nodes = [entry.node for entry in await self._store.workers.live()]
        paused = await self._store.queues.paused()
        for signature in ready:
            if signature.split("|")[1] not in paused:
                await self._place(signature, nodes)

    async def _place(self, signature: str, nodes: Sequence[Node]) -> None:
        """All ready runs of a signature want the same workers."""
        workers = [node.id for node in nodes if not node.draining and signature_for(node, signature)]
        if not workers:
            self._waits = True
            return
        while ids := await self._store.placements.ready(signature, _BATCH):
            states = [await self._store.placements.expand(run, workers) for run in await self._store.runs.get_many(ids)]
            if all(state is State.QUEUED for state in states):
                return  # the queue has been paused meanwhile; its resumption is an event

    async def _look_after(self) -> None:
        while True:
            await trio.sleep(min(_LOOK_AFTER_S, self._patience_s) * random.uniform(0.8, 1.2))
            try:
                await self._give_up()
            except StoreError as error:
                _log.warning("the store refused: %s", error)

    async def _give_up(self) -> None:
        """End the children of workers that this server has not seen for as long as its patience lasts."""
        waiting = await self._store.placements.waiting()
        live = {entry.node.id for entry in await self._store.workers.live()} if waiting else set()
        now = trio.current_time()
        self._away_since = {one: self._away_since.get(one, now) for one in waiting if one not in live}
        for worker, since in self._away_since.items():
            if now - since >= self._patience_s:
                count = await self._store.placements.abandon(waiting[worker])
                _log.warning("%d runs were given up: the worker %s does not come back", count, worker)
