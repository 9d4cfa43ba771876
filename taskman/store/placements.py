"""Placed runs in Redis: becoming one child for each worker, and children whose worker does not come back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from ..model.ids import child_run_id
from ..model.run import Run
from ..model.states import FINAL, State
from .replies import checked
from .shard import ShardPart

__all__ = ["Placements"]

_BATCH = 1000
_WAITING = frozenset(State) - FINAL - {State.RUNNING, State.CANCELLING}


class Placements(ShardPart):
    """The placed runs of one shard. Every call: StoreUnavailable when Redis cannot be reached; safe to repeat."""

    async def ready(self, signature: str, limit: int) -> list[str]:
        """The runs of a signature whose turn it is, the first ones."""
        found = await self._connection.execute("ZRANGE", self._keys.ready(signature), 0, limit - 1)
        return [one.decode() for one in found]

    async def expand(self, run: Run, workers: Sequence[str], *, now_ms: int = 0) -> State | None:
        """Transition a queued run to running as one child on each of the workers, or to blocked.

        Shape: its state afterwards, None when it is gone. Source: lua/expand.lua.
        """
        arguments: list[Any] = [run.id, run.spec.priority, run.spec.pinned(run.id, "-").script_options]
        for worker in dict.fromkeys(workers):
            child = run.spec.pinned(run.id, worker)
            arguments += [child_run_id(run.id, worker), child.signature, child.to_document()]
        state = await self._script("expand", *arguments, now_ms=now_ms)
        return State(state.decode()) if state else None

    async def left(self, run_id: str) -> tuple[int, int]:
        """How many children a run has become, and how many of them are not final."""
        commands = [("ZCARD", self._keys.children(run_id)), ("HGET", self._keys.run(run_id), "left")]
        total, left = map(checked, await self._connection.execute_many(commands))
        return int(total), int(left or 0)

    async def waiting(self) -> dict[str, list[str]]:
        """The children that wait for their worker, by worker."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for parent in await self._connection.execute("SMEMBERS", self._keys.placed):
            children = await self._connection.execute("ZRANGE", self._keys.children(parent.decode()), 0, -1)
            for first in range(0, len(children), _BATCH):
                await self._look_at([one.decode() for one in children[first : first + _BATCH]], found)
        return dict(found)

    async def _look_at(self, children: Sequence[str], found: defaultdict[str, list[str]]) -> None:
        commands = [("HMGET", self._keys.run(child), "state", "sig") for child in children]
        replies = await self._connection.execute_many(commands)
        for child, (state, signature) in zip(children, map(checked, replies), strict=True):
            if state and state.decode() in _WAITING:
                found[_worker_of(signature.decode())].append(child)

    async def abandon(self, children: Sequence[str], *, now_ms: int = 0) -> int:
        """Transition children that wait to failed: their worker is gone for good. How many. Source: lua/abandon.lua."""
        batches = [children[first : first + _BATCH] for first in range(0, len(children), _BATCH)]
        return sum([int(await self._script("abandon", *batch, now_ms=now_ms)) for batch in batches])


def _worker_of(signature: str) -> str:
    labels = dict(label.split("=") for label in signature.split("|")[2].split(","))
    return labels["worker"]
