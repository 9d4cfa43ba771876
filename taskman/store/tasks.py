"""Tasks in Redis: save, read, delete; and firing their schedules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from ..errors import Conflict, NotFound
from ..model.misfire import Span
from ..model.run import RunSpec
from ..model.schedule import Schedule
from ..model.task import Task, TaskDefinition
from .replies import checked
from .shard import ShardPart

__all__ = ["Due", "Fire", "Firing", "LedgerEntry", "Tasks"]


@dataclass(frozen=True, slots=True)
class Due:
    """A schedule that is due: its task, its number within the task, and the due instant (epoch ms)."""

    task: str
    schedule: int
    due_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """A due instant that fires: the run to create, due at `due_ms`, which is the fire time and its jitter."""

    fire_time_ms: int
    due_ms: int
    run_id: str
    spec: RunSpec
    overlap: str | None = None

    @property
    def arguments(self) -> list[Any]:
        """As lua/fire.lua takes it."""
        spec = self.spec
        run = [self.run_id, spec.signature, spec.priority, spec.script_options, self.overlap or "", spec.to_document()]
        return [self.fire_time_ms, self.due_ms, *run]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fire:
    """What came of the due instants of one schedule, to be committed: the runs, and the spans that had none.

    `next_ms` is the next instant at which it may fire, and `skips_ms` the first before it at which it may not.
    `mark`: of a schedule whose runs are counted. `is_over`: it waits for no more ends of runs.
    """

    due: Due
    revision: int
    next_ms: int | None
    skips_ms: int | None = None
    mark: str = ""
    is_over: bool = False
    spans: Sequence[Span] = ()
    runs: Sequence[Firing] = ()

    @property
    def arguments(self) -> list[Any]:
        """As lua/fire.lua takes it."""
        due, following = self.due, "-" if self.is_over else self.next_ms or ""
        found = [due.task, due.schedule, self.revision, due.due_ms, following, self.skips_ms or "", self.mark]
        found += [len(self.spans), len(self.runs)]
        for span in self.spans:
            reason = span.reason or ("calendar" if span.outcome == "skipped" else "-")
            found += [span.outcome, span.first_ms, span.last_ms, span.count, reason]
        for run in self.runs:
            found += run.arguments
        return found


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """The one outcome of a due instant; or of `count` of them in a row, from `since_ms` to `fire_time_ms`."""

    fire_time_ms: int
    outcome: str
    schedule: int
    run_id: str | None = None
    since_ms: int | None = None
    count: int = 1
    reason: str | None = None


class Tasks(ShardPart):
    """The tasks of one shard. Every call: StoreUnavailable when Redis cannot be reached."""

    async def save(self, definition: TaskDefinition, now_ms: int, *, revision: int | None = None) -> Task:
        """Create or replace a task; its schedules owe nothing from before `now_ms`.

        `revision` is the one it must have: 0 for a task that must be new, None for any.
        Raises: Conflict. Source: lua/save_task.lua.
        """
        plans = [_first(number, schedule, definition, now_ms) for number, schedule in enumerate(definition.schedules)]
        document = definition.to_document()
        expected = "" if revision is None else revision
        enabled = int(definition.enabled)
        arguments = (definition.name, expected, document, enabled, *chain.from_iterable(plans))
        found, extra, *following = await self._script("save_task", *arguments)
        if found == -1 and revision == 0:
            raise Conflict(f"there is a task '{definition.name}' already: choose another name, or edit that one")
        if found == -1:
            raise Conflict(f"task '{definition.name}' was changed meanwhile: look at revision {extra} first")
        next_ms = int(following[0]) if following[0] else None
        task = Task(definition=definition, revision=found, created_ms=extra, updated_ms=now_ms, next_ms=next_ms)
        return replace(task, is_new=bool(following[1]))

    async def delete(self, name: str) -> None:
        """Remove a task and its schedules; its runs stay. Raises NotFound. Source: lua/delete_task.lua."""
        if not await self._script("delete_task", name):
            raise _unknown(name)

    async def get(self, name: str) -> Task:
        """The task of that name. Raises NotFound."""
        found = await self.get_many([name])
        if not found:
            raise _unknown(name)
        return found[0]

    async def get_many(self, names: Sequence[str]) -> list[Task]:
        """The tasks of those names that exist, in order."""
        if not names:
            return []
        replies = await self._connection.execute_many([("HGETALL", self._keys.task(name)) for name in names])
        return [_parse(reply) for reply in replies if checked(reply)]

    async def page(self, limit: int = 50, cursor: str | None = None) -> tuple[list[Task], str | None]:
        """Tasks by name, after `cursor`; and the cursor of the next page."""
        bottom = f"({cursor}" if cursor else "-"
        command = ("ZRANGEBYLEX", self._keys.tasks, bottom, "+", "LIMIT", 0, limit + 1)
        names = [one.decode() for one in await self._connection.execute(*command)]
        return await self.get_many(names[:limit]), names[limit - 1] if len(names) > limit else None

    async def names(self) -> list[str]:
        """Every task's name, sorted; at most 10,000."""
        command = ("ZRANGEBYLEX", self._keys.tasks, "-", "+", "LIMIT", 0, 10_000)
        return [one.decode() for one in await self._connection.execute(*command)]

    async def last_run_ids(self, names: Sequence[str]) -> list[str | None]:
        """The id of each task's newest run."""
        commands = [("ZREVRANGEBYLEX", self._keys.task_runs(name), "+", "-", "LIMIT", 0, 1) for name in names]
        replies = await self._connection.execute_many(commands) if commands else []
        return [reply[0].decode() if checked(reply) else None for reply in replies]

    async def due(self, now_ms: int, limit: int = 200) -> list[Due]:
        """The schedules that are due, the longest overdue first."""
        command = ("ZRANGEBYSCORE", self._keys.schedules, "-inf", now_ms, "WITHSCORES", "LIMIT", 0, limit)
        reply = await self._connection.execute(*command)
        return [_parse_due(reply[i], reply[i + 1]) for i in range(0, len(reply), 2)]

    async def agenda(self, limit: int, start: int = 0) -> list[Due]:
        """Every schedule by its next due instant, the earliest first: `limit` of them from place `start` on."""
        reply = await self._connection.execute("ZRANGE", self._keys.schedules, start, start + limit - 1, "WITHSCORES")
        return [_parse_due(reply[i], reply[i + 1]) for i in range(0, len(reply), 2)]

    async def fire(self, fires: Sequence[Fire], *, now_ms: int = 0) -> list[bool]:
        """Record the outcomes of due instants, create their runs and move the schedules on.

        Shape: for each, False when another server was first, or the task has changed. Source: lua/fire.lua.
        """
        arguments = chain.from_iterable(fire.arguments for fire in fires)
        return [bool(fired) for fired in await self._script("fire", *arguments, now_ms=now_ms, at_once=True)]

    async def forget_due(self, due: Due) -> None:
        """Drop an entry of the schedule index whose task is gone."""
        await self._connection.execute("ZREM", self._keys.schedules, f"{due.task} {due.schedule}")

    async def ledger(self, name: str, limit: int = 50, start: int = 0) -> list[LedgerEntry]:
        """The outcomes of the task's due instants, newest first: `limit` of them from place `start` on."""
        reply = await self._connection.execute("ZREVRANGE", self._keys.ledger(name), start, start + limit - 1)
        return [_parse_ledger(one.decode()) for one in reply]


def _first(number: int, schedule: Schedule, definition: TaskDefinition, now_ms: int) -> list[Any]:
    """What lua/save_task.lua is told of a schedule; nothing when it is never due nor counted."""
    due = schedule.first_due(now_ms) if definition.enabled else None
    wakes = None if due is None else schedule.next_open(due)
    chained = _chain(schedule, definition.name) if definition.enabled else ""
    if wakes is None and schedule.max_runs is None and not chained:
        return []
    counted = ["", ""] if schedule.max_runs is None else [schedule.mark, schedule.max_runs]
    return [number, wakes or "", "" if wakes == due else due, *counted, chained]


def _chain(schedule: Schedule, name: str) -> str:
    """What the schedule waits for, as the scripts have it."""
    if isinstance(schedule.after, list):
        return " ".join(f"{one.task} {one.on}" for one in schedule.after)
    return "" if schedule.after is None else f"{name} {round(schedule.after * 1000)}"


def _unknown(name: str) -> NotFound:
    return NotFound(f"there is no task '{name}': `taskman tasks list` shows the ones there are")


def _parse(reply: Sequence[bytes]) -> Task:
    fields = dict(zip(reply[::2], reply[1::2], strict=True))
    of: dict[bytes, dict[int, bytes]] = {b"cursor": {}, b"skips": {}, b"fired": {}}
    for name, value in fields.items():
        kind, found, schedule = name.partition(b":")
        if found and kind in of:
            of[kind][int(schedule)] = value
    return Task(
        definition=TaskDefinition.from_document(fields[b"definition"]),
        revision=int(fields[b"revision"]),
        created_ms=int(fields[b"created"]),
        updated_ms=int(fields[b"updated"]),
        next_ms=min(map(int, of[b"cursor"].values()), default=None),
        cursors={schedule: int(value) for schedule, value in of[b"cursor"].items()},
        fired={schedule: int(value.split(b" ")[1]) for schedule, value in of[b"fired"].items()},
        skips={schedule: int(value) for schedule, value in of[b"skips"].items()},
    )


def _parse_due(member: bytes, score: bytes) -> Due:
    task, schedule = member.decode().split(" ")
    return Due(task, int(schedule), int(float(score)))


def _parse_ledger(member: str) -> LedgerEntry:
    at, outcome, schedule, what, *span = member.split(" ")
    if not span:
        return LedgerEntry(int(at), outcome, int(schedule), what, reason="overlap" if outcome == "skipped" else None)
    count, reason = span
    reason_given = None if reason == "-" else reason
    return LedgerEntry(int(at), outcome, int(schedule), since_ms=int(what), count=int(count), reason=reason_given)
