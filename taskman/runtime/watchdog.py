"""The watchdog: finds what is lost and puts it right. Any number of servers may run one; each check is repeated
inside the script that acts on it, so they cannot get in each other's way."""

from __future__ import annotations

import logging
import random

import trio

from ..errors import StoreError
from ..store.store import Store

__all__ = ["watch"]

PERIOD_S = 2.0
_log = logging.getLogger("taskman.watchdog")


async def watch(store: Store) -> None:
    """Every two seconds, for ever: suspect and lost runs, and runs past their deadlines. Cancellation loses nothing."""
    while True:
        try:
            await _reclaim(store)
            while await store.runs.expire():
                continue
        except StoreError as error:
            _log.warning("the store refused: %s", error)
        await trio.sleep(PERIOD_S * random.uniform(0.8, 1.2))


async def _reclaim(store: Store) -> None:
    while True:
        suspects, lost = await store.runs.reclaim_expired()
        if suspects:
            _log.warning("%d runs are suspect: their workers do not answer", suspects)
        if lost:
            _log.warning("%d runs were lost by their workers", lost)
        if suspects + lost == 0:
            return
