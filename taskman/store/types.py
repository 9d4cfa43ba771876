"""Task types in Redis: how the workers and servers that have them describe them to those that have not."""

from __future__ import annotations

import json
from collections.abc import Iterable

from ..model.description import TypeDescription
from .connection import Connection
from .keys import Keys
from .replies import checked

__all__ = ["TaskTypes"]

MOST = 1000
# A type that nobody has described for so long is forgotten: each worker describes its own when it connects.
KEPT_MS = 30 * 86_400_000


class TaskTypes:
    """The task types of this installation. Every call: StoreUnavailable when Redis cannot be reached."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection, self._keys = connection, keys

    async def describe(self, types: Iterable[TypeDescription]) -> None:
        """Keep these descriptions in place of earlier ones; of new names only as many as there is room for."""
        now_ms, known = await self._connection.now_ms(), set(await self._names())
        fields: list[str] = []
        for one in types:
            if one.name in known or len(known) < MOST:
                known.add(one.name)
                fields += [one.name, f"{now_ms} {_document(one)}"]
        if fields:
            await self._connection.execute("HSET", self._keys.types, *fields)

    async def _names(self) -> list[str]:
        return [one.decode() for one in await self._connection.execute("HKEYS", self._keys.types)]

    async def known(self) -> list[TypeDescription]:
        """Every type that has been described lately, by name. Older ones are forgotten on the way."""
        reply = await self._connection.execute("HGETALL", self._keys.types)
        oldest_ms, found, gone = await self._connection.now_ms() - KEPT_MS, [], []
        for name, value in zip(reply[::2], reply[1::2], strict=True):
            seen, _, text = value.partition(b" ")
            if int(seen) < oldest_ms:
                gone.append(name)
            else:
                found.append(TypeDescription(name.decode(), **json.loads(text)))
        if gone:
            checked(await self._connection.execute("HDEL", self._keys.types, *gone))
        return sorted(found, key=lambda one: one.name)


def _document(one: TypeDescription) -> str:
    return json.dumps({"version": one.version, "description": one.description, "schema": one.schema})
