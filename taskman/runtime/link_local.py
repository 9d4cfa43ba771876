"""The link of a worker that lives in the server: it calls the store, and the store's events wake it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import trio

from ..errors import StoreUnavailable
from ..model.admission import Node, serves_signature
from ..model.events import RunEvent
from ..model.states import State
from ..store.events import Batch
from ..store.logs import Chunk
from ..store.runs import Assignment, Outcome
from ..store.store import Store

__all__ = ["LocalLink"]

# So long after the last heartbeat a run is suspect; its own grace follows before it is lost.
LEASE_MS = 20_000
_RECHECK_S = 30.0
_RETRY_S = 0.5


class LocalLink:
    """Serves what `node` says. `run` must be running."""

    def __init__(self, store: Store, node: Node) -> None:
        self.worker = node.id
        self._store, self._node = store, node
        self._signatures: dict[str, None] = {}
        self._ready = trio.Event()
        self._cancels_in, self._cancels_out = trio.open_memory_channel[str | None](1000)

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
            if not isinstance(event, RunEvent):
                continue
            if event.state == State.QUEUED and self._serves(event.signature):
                self._signatures[event.signature] = None
                self._ready.set()
            elif event.state == State.CANCELLING and event.worker == self.worker:
                self._cancelled(event.id)

    def _cancelled(self, run_id: str | None) -> None:
        with suppress(trio.WouldBlock):  # the next heartbeat tells the worker all the same
            self._cancels_in.send_nowait(run_id)

    async def _learn_signatures(self) -> None:
        try:
            known = await self._store.runs.signatures()
        except StoreUnavailable:
            return  # the reconnection brings another gap
        self._signatures.update({one: None for one in known if self._serves(one)})
        self._ready.set()

    def _serves(self, signature: str) -> bool:
        return serves_signature(self._node, signature)

    async def claim(self, limit: int) -> list[Assignment]:
        """See Link. Asks again at every wake-up, and now and then without one."""
        while True:
            self._ready = trio.Event()
            try:
                claimed = await self._claim_now(limit)
            except StoreUnavailable:
                await trio.sleep(_RETRY_S)
                continue
            if claimed:
                return claimed
            with trio.move_on_after(_RECHECK_S):
                await self._ready.wait()

    async def _claim_now(self, limit: int) -> list[Assignment]:
        """One call, shielded (the connection bounds it): a claim whose reply is dropped would wait for its lease."""
        if not self._signatures:
            return []
        claimed: list[Assignment] = []
        with trio.CancelScope(shield=True):
            claimed = await self._store.runs.claim(self.worker, limit, self._signatures, lease_ms=LEASE_MS)
        return claimed

    async def finish(self, outcomes: Sequence[Outcome]) -> list[str]:
        """See Link."""
        return await self._store.runs.finish(self.worker, outcomes)

    async def extend(self, held: Sequence[tuple[str, int]]) -> list[str]:
        """See Link."""
        return await self._store.runs.extend(self.worker, held, lease_ms=LEASE_MS)

    async def append_log(self, run_id: str, attempt: int, chunks: Sequence[Chunk]) -> bool:
        """See Link."""
        return await self._store.logs.append(run_id, attempt, self.worker, chunks)

    def cancels(self) -> AsyncIterator[str | None]:
        """See Link."""
        return self._cancels_out
