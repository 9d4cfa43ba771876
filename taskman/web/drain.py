"""The switch from serving to stopping."""

from __future__ import annotations

from collections.abc import Callable

import trio

__all__ = ["Drain"]


class Drain:
    """The switch from serving to stopping. It is thrown once; streams watch it, and end themselves."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._watchers: set[Callable[[], None]] = set()

    @property
    def started(self) -> bool:
        return self._event.is_set()

    def start(self) -> None:
        """Throw the switch; again does nothing."""
        if not self.started:
            self._event.set()
            for tell in list(self._watchers):
                tell()

    async def wait(self) -> None:
        """Return once the drain has started."""
        await self._event.wait()

    def watch(self, tell: Callable[[], None]) -> None:
        """Call `tell` when the drain starts. A callback costs each of thousands of streams less than a task."""
        self._watchers.add(tell)

    def unwatch(self, tell: Callable[[], None]) -> None:
        self._watchers.discard(tell)
