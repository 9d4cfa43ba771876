"""What there is to forget: final runs by age and by number, oldest first, and their removal."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import merge
from itertools import islice
from typing import Any

from ..errors import StoreError
from ..model.ids import id_at
from ..model.states import FINAL, State
from .shard import ShardPart

__all__ = ["Retention"]

_FOR_EVER = 2**53


class Retention(ShardPart):
    """The final runs of one shard, by age. Every call: StoreUnavailable when Redis cannot be reached; safe to repeat.

    Finding is by ranges of ids, which sort by time; forgetting checks everything again, in lua/forget.lua.
    """

    async def created_before(self, state: State, before_ms: int, after_id: str, limit: int) -> list[str]:
        """Runs in a final state that were created before an instant, those after `after_id` ('' for all)."""
        bound = f"({id_at(self._keys.shard, before_ms)}"
        return await self._range(self._keys.state(state), after_id, bound, limit)

    async def oldest(self, after_id: str, limit: int) -> list[str]:
        """The final runs that were created first, those after `after_id` ('' for all)."""
        ids = [await self._range(self._keys.state(state), after_id, "+", limit) for state in sorted(FINAL)]
        return list(islice(merge(*ids), limit))

    async def oldest_of(self, task: str, after_id: str, limit: int) -> list[str]:
        """The runs of a task that were created first, those after `after_id` ('' for all); final or not."""
        return await self._range(self._keys.task_runs(task), after_id, "+", limit)

    async def count(self) -> int:
        """How many final runs there are."""
        return sum(await self._replies([("ZCARD", self._keys.state(state)) for state in FINAL]))

    async def counts_by_task(self, after: str, limit: int) -> dict[str, int]:
        """How many final runs the next `limit` tasks have, by name, those after `after` ('' from the first)."""
        names = await self._range(self._keys.tasks, after, "+", limit)
        if not names:
            return {}
        unfinished = await self._connection.execute("HMGET", self._keys.unfinished, *names)
        cards = await self._replies([("ZCARD", self._keys.task_runs(name)) for name in names])
        return {name: card - int(live or 0) for name, card, live in zip(names, cards, unfinished, strict=True)}

    async def forget_old(self, ids: Sequence[str], before_ms: int) -> int:
        """Remove those of the runs that ended before an instant. Shape: how many. Source: lua/forget.lua."""
        return await self._forget("age", before_ms, "", ids)

    async def forget_now(self, run_id: str) -> bool:
        """Remove a run if it is final, however young, with its children; a child only when its parent is gone.

        Shape: whether nothing is left of it. Source: lua/forget.lua.
        """
        return await self._forget("age", _FOR_EVER, "", [run_id]) > 0

    async def forget_surplus(self, ids: Sequence[str], keep: int) -> int:
        """Remove those of the runs that are final while there are more than `keep`. Source: lua/forget.lua."""
        return await self._forget("count", keep, "", ids)

    async def forget_surplus_of(self, task: str, ids: Sequence[str], keep: int) -> int:
        """The same for the runs of one task. Source: lua/forget.lua."""
        return await self._forget("task", keep, task, ids)

    async def _forget(self, why: str, bound: int, task: str, ids: Sequence[str]) -> int:
        return int(await self._script("forget", why, bound, task, *ids))

    async def _range(self, index: str, after: str, bound: str, limit: int) -> list[str]:
        bottom = f"({after}" if after else "-"
        found = await self._connection.execute("ZRANGEBYLEX", index, bottom, bound, "LIMIT", 0, limit)
        return [one.decode() for one in found]

    async def _replies(self, commands: Sequence[Sequence[Any]]) -> list[int]:
        replies = await self._connection.execute_many(commands)
        for reply in replies:
            if isinstance(reply, StoreError):
                raise reply
        return [int(reply) for reply in replies]
