"""Queues in Redis: how much waits in each, and pausing them."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from .replies import checked
from .shard import ShardPart

__all__ = ["Queue", "Queues"]


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue: how many runs wait in it, the id of one of the longest waiting, how many run."""

    name: str
    depth: int
    oldest: str | None
    running: int
    paused: bool


class Queues(ShardPart):
    """The queues of one shard. Every call: StoreUnavailable when Redis cannot be reached."""

    async def pause(self, name: str, *, paused: bool) -> bool:
        """Stop or resume claims from the queue; whether that changed anything. Source: lua/pause_queue.lua."""
        return bool(await self._script("pause_queue", name, "paused" if paused else "resumed"))

    async def paused(self) -> frozenset[str]:
        """The names of the paused queues."""
        return frozenset(one.decode() for one in await self._connection.execute("SMEMBERS", self._keys.paused))

    async def all(self) -> list[Queue]:
        """Every queue that a run has been in or that is paused, by name."""
        members = await self._connection.execute("SMEMBERS", self._keys.signatures)
        by_queue: dict[str, list[str]] = defaultdict(list)
        for signature in (one.decode() for one in members):
            by_queue[signature.split("|")[1]].append(signature)
        paused, running = await self.paused(), await self._running()
        for name in paused:
            by_queue.setdefault(name, [])
        return [await self._look(name, by_queue[name], running[name], name in paused) for name in sorted(by_queue)]

    async def _look(self, name: str, signatures: list[str], running: int, paused: bool) -> Queue:
        commands: list[tuple[str | int, ...]] = []
        for signature in signatures:
            commands += [("ZCARD", self._keys.ready(signature)), ("ZRANGE", self._keys.ready(signature), 0, 0)]
        replies = list(map(checked, await self._connection.execute_many(commands))) if commands else []
        heads = [reply[0].decode() for reply in replies[1::2] if reply]
        return Queue(name, sum(replies[::2]), min(heads, default=None), running, paused)

    async def _running(self) -> Counter[str]:
        held = await self._connection.execute("ZRANGE", self._keys.leases, 0, 9999)
        commands = [("HGET", self._keys.run(run_id.decode()), "sig") for run_id in held]
        replies = await self._connection.execute_many(commands) if commands else []
        return Counter(reply.decode().split("|")[1] for reply in replies if isinstance(reply, bytes))
