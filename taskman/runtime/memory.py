"""What the workers of one server ask of Redis about their past."""

from __future__ import annotations

import trio

from ..store.store import Store

__all__ = ["Memory"]

_CENSUS_S = 0.5


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
