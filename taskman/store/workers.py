"""Workers in Redis: what each one says of itself while it is there, whose it is, and whether it is to drain."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from ..errors import Conflict, NotFound, nearest
from ..model.admission import Node
from .shard import ShardPart

__all__ = ["About", "WorkerEntry", "Workers"]

# A worker that has not been heard of for so long is gone: four heartbeats and some.
GONE_MS = 25_000
_FORGOTTEN_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class About:
    """What is shown of a worker besides what it serves. `boot` names its process."""

    name: str = ""
    version: str = ""
    address: str | None = None
    boot: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerEntry:
    """A worker and when it was last heard of (epoch ms)."""

    node: Node
    versions: dict[str, str]
    seen_ms: int
    about: About = About()
    online: bool = True

    @property
    def state(self) -> str:
        """online, draining, or offline when it has not been heard of lately."""
        if not self.online:
            return "offline"
        return "draining" if self.node.draining else "online"


class Workers(ShardPart):
    """The workers of this installation. Every call: StoreUnavailable when Redis cannot be reached."""

    async def enlist(
        self, node: Node, versions: dict[str, str], about: About, *, owner: str, session: str, now_ms: int = 0
    ) -> About | None:
        """Take the id for `owner`, and say that the worker has connected through `session`.

        Returns what the worker of that id has said of itself before. Raises: Conflict when a worker of another owner
        is there under this id. Source: lua/enlist_worker.lua.
        """
        document = _document(node, versions, about)
        taken, said = await self._script("enlist_worker", node.id, owner, session, GONE_MS, document, now_ms=now_ms)
        if not taken:
            raise Conflict(
                f"the worker id '{node.id}' belongs to a worker that is there and connects with another token: give "
                f"this one a data directory of its own, or wait until the other has been away for {GONE_MS // 1000} s"
            )
        return _about(json.loads(said)) if said else None

    async def report(self, node: Node, versions: dict[str, str], about: About = About()) -> None:
        """Say that a worker is there, and how it stands. To be repeated with each heartbeat.

        Source: lua/report_worker.lua.
        """
        await self._script("report_worker", node.id, _document(node, versions, about))

    async def remove(self, worker: str) -> None:
        """Forget a worker that has stopped. Safe to repeat. Source: lua/remove_worker.lua."""
        await self._script("remove_worker", worker)

    async def drain(self, worker: str, *, draining: bool) -> None:
        """Let a worker take nothing new, or work on. Safe to repeat. Source: lua/drain_worker.lua."""
        await self._script("drain_worker", worker, "drain" if draining else "resume")

    async def draining(self) -> set[str]:
        """The workers that are to take nothing new."""
        return {one.decode() for one in await self._connection.execute("SMEMBERS", self._keys.draining)}

    async def live(self) -> list[WorkerEntry]:
        """The workers heard of lately, by id. Those long gone are forgotten on the way."""
        return [entry for entry in await self.known() if entry.online]

    async def known(self) -> list[WorkerEntry]:
        """The workers heard of within a day, by id."""
        reply = await self._connection.execute("HGETALL", self._keys.workers)
        now_ms, draining = await self._connection.now_ms(), await self.draining()
        entries = [_parse(name.decode(), value, now_ms) for name, value in zip(reply[::2], reply[1::2], strict=True)]
        for entry in entries:
            if entry.seen_ms < now_ms - _FORGOTTEN_MS:
                await self.remove(entry.node.id)
        kept = [_drained(entry, draining) for entry in entries if entry.seen_ms >= now_ms - _FORGOTTEN_MS]
        return sorted(kept, key=lambda one: one.node.id)

    async def get(self, worker: str) -> WorkerEntry:
        """The worker of that id, or the only one of that name, if it was there within a day.

        Raises: NotFound that names the nearest.
        """
        known = await self.known()
        found = [entry for entry in known if entry.node.id == worker]
        found = found or [entry for entry in known if entry.about.name == worker]
        if len(found) > 1:
            raise NotFound(f"{len(found)} workers have the name '{worker}': say which one by its id")
        if not found:
            hint = nearest(worker, [name for entry in known for name in (entry.node.id, entry.about.name)])
            raise NotFound(f"there is no worker '{worker}'{hint}")
        return found[0]

    async def oldest_report_ms(self) -> int | None:
        """When the live worker was heard of that has been silent for longest; None when there is none."""
        values = await self._connection.execute("HVALS", self._keys.workers)
        now_ms = await self._connection.now_ms()
        seen = [int(value.partition(b" ")[0]) for value in values]
        return min((at for at in seen if at >= now_ms - GONE_MS), default=None)


def _document(node: Node, versions: dict[str, str], about: About) -> str:
    document: dict[str, Any] = {
        "types": versions,
        "labels": dict(node.labels),
        "queues": None if node.queues is None else sorted(node.queues),
        "slots": node.slots,
        "running": node.running,
        "name": about.name,
        "version": about.version,
        "address": about.address,
        "boot": about.boot,
    }
    return json.dumps(document)


def _parse(name: str, value: bytes, now_ms: int) -> WorkerEntry:
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
    return WorkerEntry(node, document["types"], seen_ms, _about(document), online=seen_ms >= now_ms - GONE_MS)


def _about(document: dict[str, Any]) -> About:
    return About(*(document.get(name) or "" for name in ("name", "version")), *map(document.get, ("address", "boot")))


def _drained(entry: WorkerEntry, draining: set[str]) -> WorkerEntry:
    if entry.node.id not in draining:
        return entry
    return replace(entry, node=replace(entry.node, draining=True))
