"""What all parts of the store are made on: a connection, the keys of one shard, and the scripts called with both."""

from __future__ import annotations

from typing import Any, Unpack

from .connection import Connection, Departure
from .keys import Keys
from .scripts import load_script

__all__ = ["ShardPart"]


class ShardPart:
    """A part of the store of one shard."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection, self._keys = connection, keys

    async def _script(self, name: str, *arguments: Any, now_ms: int = 0, **departure: Unpack[Departure]) -> Any:
        """Run lua/<name>.lua, at Redis' time unless a test says another. Raises and `departure`: see Connection."""
        keys = [self._keys.prefix]
        return await self._connection.script(load_script(name), keys, [now_ms, *arguments], **departure)
