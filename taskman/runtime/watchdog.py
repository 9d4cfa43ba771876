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
    """Give back runs whose lease has run out, every two seconds, for ever. Cancellation loses nothing."""
    while True:
        try:
            while count := await store.runs.reclaim_expired():
                _log.warning("%d runs were lost by their workers and went back to the queue", count)
        except StoreError as error:
            _log.warning("the store refused: %s", error)
        await trio.sleep(PERIOD_S * random.uniform(0.8, 1.2))
