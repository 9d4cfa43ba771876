"""Has the trees that last outlive their worker, should that be killed: its successor goes on with them."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Protocol

import trio

from .journal import Entry, Journal

__all__ = ["Keeping", "Lasting"]

HOLD_S = 0.5  # what ends sooner costs nothing
_CHECK_S = 0.25
_log = logging.getLogger("taskman.worker")


class Lasting(Protocol):
    """A tree, as it is seen from here."""

    def is_to_be_held(self, since: float) -> bool:
        """Whether it has run since then, and nothing speaks against it."""
        ...

    def describe(self) -> Entry:
        """What a successor must know of it. Asked once."""
        ...

    def hold(self, label: str, path: str, listener: int) -> bool:
        """Have its shim hold it from now on; False where that is not possible any more."""
        ...


class Keeping:
    """Looks after the `trees` of one worker, by way of its journal."""

    def __init__(self, journal: Journal, trees: Collection[Lasting]) -> None:
        self._journal, self._trees = journal, trees
        self._gone: list[str] = []

    async def run(self) -> None:
        """Have each tree held once it has lasted for half a second, for ever. Cancellation: nothing more is held."""
        while True:
            await trio.sleep(_CHECK_S)
            if self._gone:
                gone, self._gone = self._gone, []
                await trio.to_thread.run_sync(self._journal.remove, gone)
            since = trio.current_time() - HOLD_S
            for tree in [one for one in self._trees if one.is_to_be_held(since)]:
                await self._hold(tree)

    async def _hold(self, tree: Lasting) -> None:
        entry = tree.describe()
        try:
            listener = await trio.to_thread.run_sync(self._journal.add, entry)
        except OSError as error:
            _log.warning("%s will not outlive this worker, should that be killed: %s", entry.label, error)
            return
        with listener:
            path = str(self._journal.path(entry.label).absolute())
            if tree not in self._trees or not tree.hold(entry.label, path, listener.fileno()):
                self.forget(entry.label)

    def forget(self, label: str) -> None:
        """That tree is gone."""
        self._gone.append(label)

    def close(self) -> None:
        """All trees are gone: leave nothing behind."""
        self._journal.remove(self._gone)
