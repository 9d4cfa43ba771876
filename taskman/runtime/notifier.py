"""The notifier: tells the plugins that want to know of every run that is over.

Every server hears of every run. The one that takes a run's notice tells its plugins, so each run is told of at most
once; it is told of by somebody unless that server dies in between, or a plugin is so slow that too many wait for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import trio

from ..errors import StoreError
from ..model.events import RunEvent
from ..model.states import FINAL
from ..plugins import PluginRegistry
from ..store.events import Batch, entry_order
from ..store.store import Store

__all__ = ["Notifier"]

HOOK = "taskman_run_finished"
PATIENCE_S = 30.0
LAST_S = 2.0
# How far back a server looks that has just started, and one that had lost its connection; see store/notices.py.
AT_START_MS, AFTER_GAP_MS = 60_000, 300_000
MOST_WAITING = 1000
_BATCH = 200
_RETRY_S = 0.5
_log = logging.getLogger("taskman.plugins")


class Notifier:
    """Tells the plugins of `registry`. Where none of them wants to know, `run` returns at once."""

    def __init__(self, store: Store, registry: PluginRegistry) -> None:
        self._store = store
        self._listeners = [_Listener(*one) for one in registry.implementations(HOOK).items()]
        self._last_id = "0-0"
        self._stopping = trio.Event()
        self._stopped = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell of what ends from now on, and of what ended in the last minute and was not told of, until `drain`.

        Cancellation: what has not been told of by then, another server may still tell of.
        """
        if not self._listeners:
            self._stopped.set()
            task_status.started()
            return
        async with trio.open_nursery() as nursery:
            for listener in self._listeners:
                nursery.start_soon(listener.run)
            task_status.started()
            async with trio.open_nursery() as following:
                following.start_soon(self._follow)
                await self._stopping.wait()
                following.cancel_scope.cancel()
            for listener in self._listeners:
                listener.close()
        self._stopped.set()

    async def drain(self) -> None:
        """Tell of what is over, for a few seconds at most, then stop."""
        with trio.move_on_after(LAST_S), suppress(StoreError):
            newest = await self._store.events.newest_id()
            while self._listeners and entry_order(self._last_id) < entry_order(newest):
                await trio.sleep(0.02)
        with trio.move_on_after(LAST_S):
            self._stopping.set()
            await self._stopped.wait()
        self._stopping.set()

    async def _follow(self) -> None:
        with self._store.events.listen() as batches:
            await self._catch_up(AT_START_MS)
            async for batch in batches:
                if batch.gap:
                    await self._catch_up(AFTER_GAP_MS)
                await self._tell(batch)

    async def _catch_up(self, age_ms: int) -> None:
        """What this server has not heard of, as far back as that."""
        newest = self._store.events.last_id
        while True:
            with suppress(StoreError):
                oldest = f"{await self._store.runs.now() - age_ms}-0"
                for batch in await self._store.events.backlog(max(oldest, self._last_id, key=entry_order), 10_000):
                    await self._tell(batch)
                self._last_id = max(self._last_id, newest, key=entry_order)
                return
            await trio.sleep(_RETRY_S)

    async def _tell(self, batch: Batch) -> None:
        over = [event.id for event in batch.events if isinstance(event, RunEvent) and event.state in FINAL]
        for first in range(0, len(over), _BATCH):
            for run in await self._taken(over[first : first + _BATCH]):
                for listener in self._listeners:
                    listener.offer(run)
        self._last_id = max(self._last_id, batch.id, key=entry_order)

    async def _taken(self, run_ids: list[str]) -> list[dict[str, Any]]:
        while True:
            with suppress(StoreError):
                ours = await self._store.notices.take(run_ids)
                break
            await trio.sleep(_RETRY_S)
        while True:
            with suppress(StoreError):
                return [run.to_json(detail=True) for run in await self._store.runs.get_many(ours)]
            await trio.sleep(_RETRY_S)


class _Listener:
    """One plugin's hook, called for one run at a time in a thread of its own; a slow one keeps nobody else waiting."""

    def __init__(self, name: str, hook: Callable[..., Any]) -> None:
        self._name, self._hook = name, hook
        self._put, self._take = trio.open_memory_channel[dict[str, Any]](MOST_WAITING)
        self._room = trio.CapacityLimiter(1)
        self._left_out = 0

    def offer(self, run: dict[str, Any]) -> None:
        """Have the plugin told of a run, unless too many wait already."""
        try:
            self._put.send_nowait(run)
        except trio.WouldBlock:
            self._left_out += 1
            if self._left_out & (self._left_out - 1) == 0:  # 1, 2, 4, 8: a log that says it once a run helps nobody
                _log.warning("the plugin '%s' is too slow: it was not told of %d runs", self._name, self._left_out)

    def close(self) -> None:
        """Nothing more will come."""
        self._put.close()

    async def run(self) -> None:
        """Call the hook for each run until closed. Cancellation: a call that is under way is left alone."""
        async for run in self._take:
            with trio.move_on_after(PATIENCE_S) as patience:
                await trio.to_thread.run_sync(partial(self._call, run), abandon_on_cancel=True, limiter=self._room)
            if patience.cancelled_caught:
                _log.warning("the plugin '%s': %s takes more than %g s", self._name, HOOK, PATIENCE_S)

    def _call(self, run: dict[str, Any]) -> None:
        try:
            self._hook(run=run)
        except BaseException as error:  # in a thread of its own, nobody is to be interrupted
            _log.warning("the plugin '%s': %s failed for run %s", self._name, HOOK, run["id"], exc_info=error)
