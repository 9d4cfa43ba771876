"""How far the logs have come of attempts that this worker has taken over from its predecessor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import trio

from ..errors import StoreUnavailable
from . import wire
from .spool import Key, Spool

__all__ = ["LogPositions"]

_PATIENCE_S = 1.0


class LogPositions:
    """By the spool, whose output comes last; of attempts with nothing spooled by the first welcome."""

    def __init__(self, held: Sequence[Key] = ()) -> None:
        self._known: dict[Key, int | None] = dict.fromkeys(held)
        self._news = trio.Event()

    def __contains__(self, key: Key) -> bool:
        return key in self._known

    def read(self, spool: Spool, key: Key) -> None:
        """Take what the predecessor has spooled. Reads a whole file: use a thread."""
        last = spool.last(key)
        message = None if last is None else wire.read_message(last)
        if isinstance(message, wire.Log) and message.chunks:
            self._known[key] = message.chunks[-1][0]

    def hear(self, kept: Iterable[wire.Kept]) -> None:
        """Take what a server says."""
        for one in kept:
            key = one.run, one.attempt
            if one.seq is not None and self._known.get(key, 0) is None:
                self._known[key] = one.seq
        self._news.set()

    async def get(self, key: Key) -> int:
        """The seq of the last chunk. Raises: StoreUnavailable when nobody has said it yet; ask again."""
        if self._known.get(key) is None:
            self._news = trio.Event()
            with trio.move_on_after(_PATIENCE_S):
                await self._news.wait()
        if (seq := self._known.get(key)) is None:
            raise StoreUnavailable("no server has said how far the log has come")
        return seq
