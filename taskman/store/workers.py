"""Workers in Redis: what each one says of itself while it is there."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ..model.admission import Node
from .connection import Connection
from .keys import Keys
from .scripts import load_script

__all__ = ["WorkerEntry", "Workers"]

# A worker that has not been heard of for so long is gone: four heartbeats and some.
GONE_MS = 25_000


@dataclass(frozen=True, slots=True)
class WorkerEntry:
    """A worker and when it was last heard of (epoch ms)."""

    node: Node
    versions: dict[str, str]
    seen_ms: int


class Workers:
    """The workers of this installation. Every call: StoreUnavailable when Redis cannot be reached."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection, self._keys = connection, keys

    async def report(self, node: Node, versions: dict[str, str]) -> None:
        """Say that a worker is there, and how it stands. To be repeated with each heartbeat.

        Source: lua/report_worker.lua.
        """
        document = {
            "types": versions,
            "labels": dict(node.labels),
            "queues": None if node.queues is None else sorted(node.queues),
            "slots": node.slots,
            "running": node.running,
        }
        arguments = (0, node.id, json.dumps(document))
        await self._connection.script(load_script("report_worker"), [self._keys.prefix], arguments)

    async def remove(self, worker: str) -> None:
        """Forget a worker that has stopped. Safe to repeat."""
        await self._connection.execute("HDEL", self._keys.workers, worker)

    async def live(self) -> list[WorkerEntry]:
        """The workers heard of lately, by id. Those long gone are forgotten on the way."""
        reply = await self._connection.execute("HGETALL", self._keys.workers)
        now_ms = await self._now()
        entries = [_parse(name.decode(), value) for name, value in zip(reply[::2], reply[1::2], strict=True)]
        for entry in entries:
            if entry.seen_ms < now_ms - 86_400_000:
                await self.remove(entry.node.id)
        return sorted((one for one in entries if one.seen_ms >= now_ms - GONE_MS), key=lambda one: one.node.id)

    async def _now(self) -> int:
        seconds, micros = await self._connection.execute("TIME")
        return int(seconds) * 1000 + int(micros) // 1000


def _parse(name: str, value: bytes) -> WorkerEntry:
    seen, _, text = value.partition(b" ")
    seen_ms, document = int(seen), json.loads(text)
    queues = document["queues"]
    node = Node(
        id=name,
        types=frozenset(document["types"]),
        labels=document["labels"],
        slots=document["slots"],
        running=document["running"],
        queues=None if queues is None else frozenset(queues),
    )
    return WorkerEntry(node, document["types"], seen_ms)
