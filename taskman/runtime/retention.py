"""Retention: final runs beyond their age or number are forgotten, and what stays is made small.

Any number of servers may do this at once: each removal is checked again inside the script that makes it.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass

import trio

from ..errors import StoreError
from ..model.states import FINAL, State
from ..store.store import Store

__all__ = ["Keep", "compact_logs", "retain"]

PERIOD_S = 10.0
COMPACT_S = 5.0
BATCH = 200
_TASKS = 1000  # looked at in one sweep; the next one goes on after them
_IDLE_BATCHES = 20
_DAY_MS = 86_400_000
_log = logging.getLogger("taskman.retention")


@dataclass(frozen=True, slots=True)
class Keep:
    """For how long, and how many final runs are kept; 0: without that limit."""

    days: int = 30
    runs: int = 100_000
    runs_per_task: int = 1000


async def retain(store: Store, keep: Keep) -> None:
    """Every ten seconds, for ever: forget the runs that are not to be kept. Cancellation loses nothing."""
    sweeper = Sweeper(store, keep)
    while True:
        try:
            if forgotten := await sweeper.sweep():
                _log.info("forgot %d old runs", forgotten)
        except StoreError as error:
            _log.warning("the store refused: %s", error)
        await trio.sleep(PERIOD_S * random.uniform(0.8, 1.2))


async def compact_logs(store: Store) -> None:
    """Every five seconds, for ever: compact the logs of the runs that have ended. Cancellation loses nothing.

    The list of them is in the store: whichever server comes first does it, and nothing is left over by one that dies.
    """
    while True:
        try:
            while await _compact_some(store):
                continue
        except StoreError as error:
            _log.warning("the store refused: %s", error)
        await trio.sleep(COMPACT_S * random.uniform(0.8, 1.2))


async def _compact_some(store: Store) -> int:
    return sum([await store.logs.compact(run_id) for run_id in await store.logs.unpacked()])


class Sweeper:
    """Goes through the final runs, a batch at a time; remembers where it was, so that no sweep takes long."""

    def __init__(self, store: Store, keep: Keep) -> None:
        self._store, self._found, self._keep = store, store.retention, keep
        self._places: dict[State, str] = {}
        self._task = ""

    async def sweep(self, now_ms: int = 0) -> int:
        """Forget what is not to be kept; how many runs that were. Raises StoreUnavailable."""
        forgotten = 0
        if self._keep.days:
            before_ms = (now_ms or await self._store.runs.now()) - self._keep.days * _DAY_MS
            for state in sorted(FINAL):
                forgotten += await self._forget_old(state, before_ms)
        if self._keep.runs:
            forgotten += await self._forget_surplus()
        if self._keep.runs_per_task:
            forgotten += await self._forget_surplus_of_tasks()
        return forgotten

    async def _forget_old(self, state: State, before_ms: int) -> int:
        """By the end of a run, not by its id: one that waited for long may be old and have ended just now.

        Such runs are passed over, at most so many in a sweep.
        """
        place, forgotten, idle = self._places.get(state, ""), 0, 0
        while idle < _IDLE_BATCHES:
            ids = await self._found.created_before(state, before_ms, place, BATCH)
            if not ids:
                place = ""
                break
            count = await self._found.forget_old(ids, before_ms)
            place, forgotten, idle = ids[-1], forgotten + count, idle + (count == 0)
        self._places[state] = place
        return forgotten

    async def _forget_surplus(self) -> int:
        """Children of a placed run that is under way are final, and stay: they are passed over."""
        place, forgotten, idle = "", 0, 0
        while idle < _IDLE_BATCHES and await self._found.count() > self._keep.runs:
            ids = await self._found.oldest(place, BATCH)
            if not ids:
                break
            count = await self._found.forget_surplus(ids, self._keep.runs)
            place, forgotten, idle = ids[-1], forgotten + count, idle + (count == 0)
        return forgotten

    async def _forget_surplus_of_tasks(self) -> int:
        counts = await self._found.counts_by_task(self._task, _TASKS)
        self._task = max(counts) if len(counts) == _TASKS else ""
        forgotten = 0
        for task, count in counts.items():
            if count > self._keep.runs_per_task:
                forgotten += await self._forget_surplus_of(task, count - self._keep.runs_per_task)
        return forgotten

    async def _forget_surplus_of(self, task: str, surplus: int) -> int:
        place, forgotten = "", 0
        while forgotten < surplus:
            ids = await self._found.oldest_of(task, place, BATCH)
            if not ids:
                break
            forgotten += await self._found.forget_surplus_of(task, ids, self._keep.runs_per_task)
            place = ids[-1]
        return forgotten
