"""Runs in Redis: submit, claim, extend, finish, cancel, reclaim, promote; and reading them back."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Unpack
from urllib.parse import quote

import trio
from msgspec import Struct

from ..errors import Conflict, NotFound
from ..model.ids import is_run_id
from ..model.progress import Progress
from ..model.run import HistoryEntry, Run, RunSpec
from ..model.states import State
from .connection import Connection, Departure
from .keys import Keys
from .listing import Filters, Listing, Page
from .replies import checked
from .shard import ShardPart

__all__ = ["Assignment", "Outcome", "Page", "Promotion", "Receipt", "Runs", "Submission"]

# A call about so many does not wait for others to leave with: while a busy worker goes on with what it has, Redis shall
# be at work already.
_MANY = 16


class Submission(Struct, frozen=True):
    """A run to create; `due_ms` 0 means at once.

    `idempotency`: digests of the key and of the body. `on_conflict`: what a taken unique key leads to, reject or
    return. `overlap`: skip or replace what else of its group is live. `queue_limit`: refused when so many
    wait in its queue; 0 is no limit.
    """

    id: str
    spec: RunSpec
    due_ms: int = 0
    idempotency: tuple[str, str] | None = None
    on_conflict: str = "reject"
    overlap: str | None = None
    queue_limit: int = 0

    @property
    def checks(self) -> str:
        """What the script looks at before it creates the run, as words."""
        words = [f"idem={':'.join(self.idempotency)}"] if self.idempotency else []
        words += [f"conflict={self.on_conflict}"] if self.spec.unique else []
        words += [f"overlap={self.overlap}"] if self.overlap else []
        words += [f"max={self.queue_limit}"] if self.queue_limit else []
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a submission, and the run it is about: see the header of lua/submit.lua."""

    outcome: str
    run_id: str
    at_ms: int = 0

    def run(self, submission: Submission, by: str) -> Run:
        """The run that was created, as it was then, without asking Redis."""
        later = submission.due_ms > self.at_ms
        state = State.SCHEDULED if later else State.QUEUED
        history = (HistoryEntry(self.at_ms, state, None, 0, by),)
        due_ms = submission.due_ms if later else self.at_ms
        return Run(
            id=self.run_id, spec=submission.spec, state=state, attempt=0, worker=None, due_ms=due_ms, history=history
        )


class Assignment(Struct, frozen=True):
    """A run that a worker has claimed, with the number of the fresh attempt."""

    run_id: str
    attempt: int
    spec: RunSpec
    failures: int = 0


class Outcome(Struct, frozen=True):
    """How an attempt ended: succeeded, failed, cancelled, retry, released or lost.

    `wait_s` is the time until the next attempt, for retry. A worker does not say retry: what a failure leads to is
    decided where the run's policy is known, and `retry_after_s` is what the task has asked for. It may say fatal: a
    failure that nothing follows.
    """

    run_id: str
    attempt: int
    outcome: str
    reason: str | None = None
    result: Any = None
    error: str | None = None
    wait_s: float = 0.0
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Promotion:
    """What the store says of time: now, and when something is due next (epoch ms, None: nothing is)."""

    now_ms: int
    promoted: int
    next_run_ms: int | None
    next_schedule_ms: int | None


class Runs(ShardPart):
    """The runs of one shard.

    Every call: StoreUnavailable when Redis cannot be reached. A cancelled call may have happened; all are safe to
    repeat, except that what an unheard claim has claimed must run out its lease.
    """

    def __init__(self, connection: Connection, keys: Keys) -> None:
        super().__init__(connection, keys)
        self.before_submit: set[Callable[[Sequence[Submission]], bool]] = set()
        """Who is told of submissions that leave now: a command sent later over this connection finds them.

        True: somebody has been woken who sends one, at once.
        """

    async def submit(self, submissions: Sequence[Submission], *, by: str, now_ms: int = 0) -> list[Receipt]:
        """Transition new runs to queued, to scheduled when they are due later, or to skipped when they overlap.

        Shape: one receipt for each submission, in order. Source: lua/submit.lua.
        """
        arguments: list[Any] = []
        for one in submissions:
            spec = one.spec
            arguments += [one.id, one.due_ms, spec.signature, spec.priority, spec.task or ""]
            arguments += [spec.script_options, one.checks, spec.to_document()]
        woken = [tell(submissions) for tell in self.before_submit]
        now, *reply = await self._script("submit", quote(by), *arguments, now_ms=now_ms, followed=any(woken))
        if any(woken):
            await trio.lowlevel.checkpoint()  # the other's reply has come as well: a start is waited for more
        return [Receipt(reply[i].decode(), reply[i + 1].decode(), now) for i in range(0, len(reply), 2)]

    async def claim(
        self,
        worker: str,
        limit: int,
        signatures: Iterable[str],
        *,
        lease_ms: int,
        now_ms: int = 0,
        at_once: bool = False,
    ) -> list[Assignment]:
        """Transition up to `limit` ready runs from queued to running, for `worker`. `at_once`: see Connection.

        Atomic. Order: priority with ageing, then submission. Empty when nothing is ready, or all of it is blocked.
        Units: leases end `lease_ms` from now. Source: lua/claim.lua.
        """
        at_once = at_once or limit >= _MANY
        reply = await self._script("claim", lease_ms, worker, limit, *signatures, now_ms=now_ms, at_once=at_once)
        return [
            Assignment(reply[i].decode(), int(reply[i + 1]), RunSpec.from_document(reply[i + 3]), int(reply[i + 2]))
            for i in range(0, len(reply), 4)
        ]

    async def finish(
        self, worker: str, outcomes: Sequence[Outcome], *, now_ms: int = 0, followed: bool = False
    ) -> list[str]:
        """Transition runs to how their attempts ended; to scheduled for a retry, to queued when given back.

        `followed`: see Connection.

        Shape: the state of each run afterwards, or `stale` where the attempt is no longer current.
        Source: lua/finish.lua.
        """
        arguments: list[Any] = []
        for one in outcomes:
            result = b"" if one.result is None else _dump(one.result)
            arguments += [one.run_id, one.attempt, one.outcome, one.reason or "-", result, one.error or ""]
            arguments.append(round(one.wait_s * 1000))
        departure: Departure = {"at_once": len(outcomes) >= _MANY and not followed, "followed": followed}
        reply = await self._script("finish", worker, *arguments, now_ms=now_ms, **departure)
        return [state.decode() for state in reply]

    async def extend(
        self, worker: str, held: Sequence[tuple[str, int]], *, lease_ms: int, now_ms: int = 0
    ) -> list[str]:
        """Renew the leases of (run id, attempt) pairs. Shape: keep, cancel or drop for each. Source: lua/extend.lua."""
        flat = [part for pair in held for part in pair]
        return [one.decode() for one in await self._script("extend", lease_ms, worker, *flat, now_ms=now_ms)]

    async def progress(
        self, worker: str, reports: Sequence[tuple[str, int, Progress]], *, now_ms: int = 0
    ) -> list[bool]:
        """Keep how far attempts have come: (run id, attempt, progress) each.

        Shape: for each, whether the attempt is still this worker's. Source: lua/progress.lua.
        """
        flat = [part for run_id, attempt, one in reports for part in (run_id, attempt, one.to_document())]
        return [bool(kept) for kept in await self._script("progress", worker, *flat, now_ms=now_ms)]

    def progress_channel(self, run_id: str) -> str:
        """The channel that tells of new progress of a run; hints only."""
        return self._keys.progress(run_id)

    async def leases(self) -> dict[str, list[tuple[str, int]]]:
        """The (run id, attempt) pairs that each worker has a lease of."""
        ids = [one.decode() for one in await self._connection.execute("ZRANGE", self._keys.leases, 0, -1)]
        commands = [("HMGET", self._keys.run(run_id), "worker", "attempt") for run_id in ids]
        replies = await self._connection.execute_many(commands) if commands else []
        found: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for run_id, (worker, attempt) in zip(ids, map(checked, replies), strict=True):
            if worker and attempt:
                found[worker.decode()].append((run_id, int(attempt)))
        return found

    async def policies(self, run_ids: Sequence[str]) -> dict[str, tuple[dict[str, Any], int]]:
        """Of each run that exists, what it says about retries, and how often it has failed."""
        commands = [("HMGET", self._keys.run(run_id), "spec", "failures") for run_id in run_ids]
        replies = await self._connection.execute_many(commands) if commands else []
        return {
            run_id: (RunSpec.from_document(spec).retry, int(failures or 0))
            for run_id, (spec, failures) in zip(run_ids, map(checked, replies), strict=True)
            if spec
        }

    async def adopt(self, worker: str, held: Sequence[tuple[str, int]], *, lease_ms: int, now_ms: int = 0) -> int:
        """Transition waiting runs to running that this worker executes already, their claim forgotten by Redis.

        To be called after a restart of Redis only. Shape: how many. Source: lua/adopt.lua.
        """
        flat = [part for pair in held for part in pair]
        return int(await self._script("adopt", lease_ms, worker, *flat, now_ms=now_ms)) if held else 0

    async def cancel(self, run_id: str, *, by: str, force: bool = False, now_ms: int = 0) -> State:
        """Transition a waiting run to cancelled, a running one to cancelling. The state afterwards.

        `force`: its worker kills it without a grace.

        Raises: NotFound; Conflict when the run is final. Source: lua/cancel.lua.
        """
        changed, state = await self._script("cancel", _checked(run_id), quote(by), int(force), now_ms=now_ms)
        if not state:
            raise _unknown(run_id)
        found = State(state.decode())
        if not changed and found is not State.CANCELLING:
            raise Conflict(f"run {run_id} is final ({found}): there is nothing left to cancel")
        return found

    async def promote(self, limit: int = 1000, *, now_ms: int = 0) -> Promotion:
        """Transition scheduled runs that are due to queued. Source: lua/promote.lua."""
        now, promoted, run, schedule = await self._script("promote", limit, now_ms=now_ms)
        return Promotion(now, promoted, int(run) if run else None, int(schedule) if schedule else None)

    async def reclaim_expired(self, limit: int = 200, *, now_ms: int = 0) -> tuple[int, int]:
        """Mark runs whose lease has run out as suspect; after their grace give them back, or fail them.

        Shape: how many became suspect, how many were lost. Source: lua/reclaim.lua.
        """
        due = await self._due(self._keys.leases, limit, now_ms)
        suspects, lost = await self._script("reclaim", "", *due, now_ms=now_ms) if due else (0, 0)
        return int(suspects), int(lost)

    async def reclaim_from(self, worker: str, *, now_ms: int = 0) -> int:
        """Take back everything that this worker holds, because it is known to be gone. Source: lua/reclaim.lua."""
        held = await self._connection.execute("ZRANGE", self._keys.leases, 0, -1)
        return await self.reclaim(worker, held, now_ms=now_ms)

    async def reclaim(self, worker: str, run_ids: Sequence[str | bytes], *, now_ms: int = 0) -> int:
        """Take back those of the runs that this worker has lost for certain. Source: lua/reclaim.lua."""
        count = 0
        for first in range(0, len(run_ids), 500):
            count += (await self._script("reclaim", worker, *run_ids[first : first + 500], now_ms=now_ms))[1]
        return count

    async def expire(self, limit: int = 200, *, now_ms: int = 0) -> int:
        """End runs past a deadline, or tell their workers to. Shape: how many. Source: lua/expire.lua."""
        due = await self._due(self._keys.deadlines, limit, now_ms)
        return int(await self._script("expire", *due, now_ms=now_ms)) if due else 0

    async def _due(self, index: str, limit: int, now_ms: int) -> list[bytes]:
        now = now_ms or await self.now()
        found: list[bytes] = await self._connection.execute("ZRANGEBYSCORE", index, "-inf", now, "LIMIT", 0, limit)
        return found

    async def now(self) -> int:
        """Redis' clock, epoch ms."""
        return await self._connection.now_ms()

    async def signatures(self) -> list[str]:
        """Every signature that a run has had."""
        return [one.decode() for one in await self._connection.execute("SMEMBERS", self._keys.signatures)]

    async def get(self, run_id: str) -> Run:
        """The run of that id. Raises NotFound."""
        found = await self.get_many([_checked(run_id)])
        if not found:
            raise _unknown(run_id)
        return found[0]

    async def get_many(self, run_ids: Sequence[str]) -> list[Run]:
        """The runs of those ids that exist, in order."""
        if not run_ids:
            return []
        commands = [("HGETALL", self._keys.run(run_id)) for run_id in run_ids]
        replies = await self._connection.execute_many(commands)
        return [_parse(run_id, reply) for run_id, reply in zip(run_ids, replies, strict=True) if checked(reply)]

    async def known(self, run_ids: Sequence[str]) -> set[str]:
        """Those of the ids that have a run, whatever became of it."""
        replies = await self._connection.execute_many([("EXISTS", self._keys.run(run_id)) for run_id in run_ids])
        return {run_id for run_id, reply in zip(run_ids, replies, strict=True) if checked(reply)}

    async def page(self, *, limit: int = 50, cursor: str | None = None, **filters: Unpack[Filters]) -> Page:
        """Runs, newest first, that match every filter given. `cursor` is the `next_cursor` of the page before.

        Bounded: where few runs match, a page may hold less than `limit`, or nothing, and still have a next one.
        """
        return await Listing(self._connection, self._keys, self.get_many).page(filters, limit, cursor)

    async def count_by_state(self) -> dict[State, int]:
        """How many runs are in each state."""
        replies = await self._connection.execute_many([("ZCARD", self._keys.state(state)) for state in State])
        return {state: int(reply) for state, reply in zip(State, replies, strict=True)}


def _checked(run_id: str) -> str:
    if not is_run_id(run_id):
        raise NotFound(f"'{run_id}' is not a run id: they look like r0-01jd3k5v7y0123456789abcdef")
    return run_id


def _unknown(run_id: str) -> NotFound:
    return NotFound(f"there is no run {run_id}: `taskman runs list` shows the ones there are")


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _parse(run_id: str, reply: Sequence[bytes]) -> Run:
    fields = dict(zip(reply[::2], reply[1::2], strict=True))
    return Run(
        id=run_id,
        spec=RunSpec.from_document(fields[b"spec"]),
        state=State(fields[b"state"].decode()),
        attempt=int(fields[b"attempt"]),
        worker=fields.get(b"worker", b"").decode() or None,
        due_ms=int(fields[b"due"]),
        history=tuple(HistoryEntry.parse(line) for line in fields[b"history"].decode().splitlines()),
        result=json.loads(fields[b"result"]) if b"result" in fields else None,
        error=fields[b"error"].decode() if b"error" in fields else None,
        earlier_results={int(name[7:]): json.loads(fields[name]) for name in fields if name.startswith(b"result:")},
        suspect=b"suspect" in fields,
        progress=_progress(fields),
    )


def _progress(fields: dict[bytes, bytes]) -> Progress | None:
    """That of the current attempt, unless it was given back: what an earlier one has done says nothing any more."""
    if b"progress" not in fields or not fields.get(b"worker"):
        return None
    attempt, progress = Progress.from_field(fields[b"progress"].decode())
    return progress if attempt == int(fields[b"attempt"]) else None
