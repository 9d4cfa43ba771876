"""Notices: which server tells its plugins that a run is over. One does, however many have heard of it."""

from __future__ import annotations

from collections.abc import Sequence

from .connection import Connection
from .keys import Keys
from .replies import checked

__all__ = ["KEPT_MS", "Notices"]

# Longer than any server looks back for what it has missed: see runtime/notifier.py.
KEPT_MS = 600_000


class Notices:
    """The notices of one shard. Every call: StoreUnavailable when Redis cannot be reached."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection, self._keys = connection, keys

    async def take(self, run_ids: Sequence[str]) -> list[str]:
        """Those of the runs that nobody has taken yet: they are the caller's now, for ever.

        Cancellation: some may have been taken, and nobody will be told of those.
        """
        commands = [("SET", self._keys.notice(run_id), "1", "NX", "PX", KEPT_MS) for run_id in run_ids]
        replies = await self._connection.execute_many(commands) if commands else []
        return [run_id for run_id, reply in zip(run_ids, replies, strict=True) if checked(reply) is not None]
