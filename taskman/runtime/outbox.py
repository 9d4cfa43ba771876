"""Outcomes on their way from a worker to its link."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence

import trio

from ..errors import StoreError, StoreUnavailable
from ..store.runs import Outcome
from .link import Link

__all__ = ["Outbox", "note_refusal"]

_BATCH = 500
# While one call is under way the next may leave: far from its server, a worker's slots would wait for each answer.
# Not many: those that wait together cost less.
_CARRIERS = 2
_RETRY_S = 0.5
_log = logging.getLogger("taskman.worker")


class Outbox:
    """Delivers outcomes, many in a call and a few calls at a time; an outage only delays them.

    `settled` hears how each has been recorded; until then it is in here.
    """

    def __init__(self, link: Link, settled: Callable[[Outcome, str], None]) -> None:
        self._link, self._settled = link, settled
        self._waiting: list[Outcome] = []
        self._runs: Counter[str] = Counter()
        self._filled = trio.lowlevel.ParkingLot()

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._runs

    @property
    def is_full(self) -> bool:
        """Whether so many wait that nothing more should be begun."""
        return self._runs.total() > 4 * _BATCH

    def put(self, outcome: Outcome) -> None:
        """Have it delivered."""
        self._waiting.append(outcome)
        self._runs[outcome.run_id] += 1
        self._filled.unpark()

    async def run(self) -> None:
        """For ever. Cancellation: what is under way may have been recorded."""
        async with trio.open_nursery() as carriers:
            for _ in range(_CARRIERS):
                carriers.start_soon(self._carry)

    async def _carry(self) -> None:
        while True:
            while not self._waiting:
                await self._filled.park()
            batch = self._waiting[:_BATCH]
            del self._waiting[:_BATCH]
            await self._deliver(batch)

    async def _deliver(self, batch: Sequence[Outcome]) -> None:
        try:
            states = await self._link.finish(batch)
        except StoreError as error:
            note_refusal(error)
            self._waiting[:0] = batch
            await trio.sleep(_RETRY_S)
            return
        for outcome, state in zip(batch, states, strict=True):
            self._take_out(outcome.run_id)
            self._settled(outcome, state)

    def _take_out(self, run_id: str) -> None:
        self._runs[run_id] -= 1
        if not self._runs[run_id]:
            del self._runs[run_id]


def note_refusal(error: StoreError) -> None:
    """An outage is told by the connection; that Redis answers and refuses is told here."""
    if not isinstance(error, StoreUnavailable):
        _log.warning("the store refused: %s", error)
