"""The store and its oracle, side by side: each step is done to both, and everything is compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from engine.direct import TTL_SLACK_MS, Direct, run_now
from engine.expected import Snapshot, expected
from engine.invariants import check_invariants
from engine.oracle import IDEMPOTENT_MS, Oracle
from engine.oracle_run import WAITING
from engine.retention_oracle import RetentionOracle
from engine.task_oracle import SchedulePlan, TaskOracle

from taskman.model.progress import Progress
from taskman.model.run import Run, RunSpec
from taskman.model.states import State
from taskman.store.connection import Connection
from taskman.store.keys import Keys
from taskman.store.logs import Chunk
from taskman.store.placements import Placements
from taskman.store.runs import Outcome, Runs, Submission
from taskman.store.scripts import load_script
from taskman.store.tasks import Fire, Tasks

START = 1_800_000_000_000
LOG_LIMIT = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a script, to be made again."""

    now: int
    method: str
    arguments: tuple[Any, ...]


class Twin:
    """Each public method is one call of a script, at the time of the test; it raises AssertionError on a difference.

    `assigned` remembers every claim, `calls` everything: clients and workers repeat themselves.
    """

    def __init__(self, direct: Direct) -> None:
        direct.forget_everything()
        direct.heard()
        connection = cast(Connection, direct)
        self._direct, self._runs, self._tasks = direct, Runs(connection, Keys()), Tasks(connection, Keys())
        self._placements = Placements(connection, Keys())
        self.oracle = Oracle()
        self.tasks, self.retention = TaskOracle(self.oracle), RetentionOracle(self.oracle)
        self.now = START
        self.made = 0
        self.assigned: list[tuple[str, int, str]] = []
        self.calls: list[Call] = []
        self._before: Snapshot = {}

    def make(self, call: Call) -> None:
        """Do what that call did, at its time."""
        self.now = call.now
        getattr(self, call.method)(*call.arguments)

    def _script(self, name: str, *arguments: Any) -> Any:
        return run_now(self._direct.script(load_script(name), [Keys().prefix], [self.now, *arguments]))

    def _agree(self, method: str, arguments: tuple[Any, ...], got: object, wanted: object) -> None:
        self.calls.append(Call(self.now, method, arguments))
        assert got == wanted, f"{method}: the reply is {got}, should be {wanted}"
        self._compare_messages()
        self._compare_keys()

    def _compare_messages(self) -> None:
        heard = self._direct.heard()
        events = [message for channel, message in heard if channel == "events"]
        lines = [line for message in events for line in message.split("\n")[1:]]
        assert _by_subject(lines) == _by_subject(self.oracle.lines), f"announced {lines}, not {self.oracle.lines}"
        assert len(events) == bool(lines), f"{len(events)} messages"
        if events:
            assert tuple(events[0].split("\n", 1)) == self._direct.newest_event(), "stream and channel differ"
        logs = [one for one in heard if one[0] != "events"]
        assert sorted(logs) == sorted(self.oracle.published), f"told {logs}, not {self.oracle.published}"

    def _compare_keys(self) -> None:
        found, wanted = self._direct.snapshot(), expected(self.tasks)
        if found != wanted:
            differing = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
            raise AssertionError("\n".join(f"{key} is {found.get(key)}, not {wanted.get(key)}" for key in differing))
        self._compare_lifetimes()
        check_invariants(found, self._before)
        self._before = found

    def _compare_lifetimes(self) -> None:
        wanted = {f"unique:{digest}": lasts or -1 for digest, (_, lasts) in self.oracle.unique.items()}
        wanted |= {f"idem:{key}": IDEMPOTENT_MS for key in self.oracle.idempotent}
        for (name, lasts), left in zip(wanted.items(), self._direct.lifetimes(list(wanted)), strict=True):
            assert lasts - TTL_SLACK_MS * (lasts > 0) <= left <= lasts, f"{name} expires in {left} ms, not {lasts}"

    # The scripts.

    def submit(self, submissions: Sequence[Submission], by: str) -> None:
        got = run_now(self._runs.submit(submissions, by=by, now_ms=self.now))
        wanted = self.oracle.submit(submissions, by, self.now)
        self._agree("submit", (submissions, by), [(one.outcome, one.run_id) for one in got], wanted)

    def claim(self, worker: str, limit: int, signatures: Sequence[str], lease_ms: int) -> None:
        got = run_now(self._runs.claim(worker, limit, signatures, lease_ms=lease_ms, now_ms=self.now))
        wanted = self.oracle.claim(worker, limit, signatures, lease_ms, self.now)
        self.assigned += [(run_id, attempt, worker) for run_id, attempt, _ in wanted]
        arguments = (worker, limit, signatures, lease_ms)
        self._agree("claim", arguments, [(one.run_id, one.attempt, one.failures) for one in got], wanted)
        assert [one.spec for one in got] == [self.oracle.runs[run_id].spec for run_id, _, _ in wanted]

    def finish(self, worker: str, outcomes: Sequence[Outcome]) -> None:
        got = run_now(self._runs.finish(worker, outcomes, now_ms=self.now))
        results = {
            number: json.dumps(one.result, separators=(",", ":"), ensure_ascii=False)
            for number, one in enumerate(outcomes)
            if one.result is not None
        }
        self._agree("finish", (worker, outcomes), got, self.oracle.finish(worker, outcomes, results, self.now))

    def extend(self, worker: str, held: Sequence[tuple[str, int]], lease_ms: int) -> None:
        got = run_now(self._runs.extend(worker, held, lease_ms=lease_ms, now_ms=self.now))
        self._agree("extend", (worker, held, lease_ms), got, self.oracle.extend(worker, held, lease_ms, self.now))

    def adopt(self, worker: str, held: Sequence[tuple[str, int]], lease_ms: int) -> None:
        got = run_now(self._runs.adopt(worker, held, lease_ms=lease_ms, now_ms=self.now))
        self._agree("adopt", (worker, held, lease_ms), got, self.oracle.adopt(worker, held, lease_ms, self.now))

    def cancel(self, run_id: str, by: str, force: bool) -> None:
        changed, state = self._script("cancel", run_id, by, int(force))
        wanted = self.oracle.cancel(run_id, by, force, self.now)
        self._agree("cancel", (run_id, by, force), (changed, state.decode()), wanted)

    def append_log(self, run_id: str, attempt: int, worker: str, chunks: Sequence[Chunk]) -> None:
        flat = [part for one in chunks for part in (one.seq, one.at_ms, one.stream, one.first_line, one.data)]
        got = self._script("append_log", run_id, attempt, worker, LOG_LIMIT, *flat)
        wanted = self.oracle.append_log(run_id, attempt, worker, chunks, self.now)
        self._agree("append_log", (run_id, attempt, worker, chunks), got, wanted)

    def progress(self, worker: str, reports: Sequence[tuple[str, int, Progress]]) -> None:
        got = run_now(self._runs.progress(worker, reports, now_ms=self.now))
        self._agree("progress", (worker, reports), got, self.oracle.progress(worker, reports, self.now))

    def promote(self, limit: int) -> None:
        got = run_now(self._runs.promote(limit, now_ms=self.now))
        promoted = self.oracle.promote(limit, self.now)
        delayed = [run.due for run in self.oracle.runs.values() if run.state is State.SCHEDULED]
        cursors = [due for task in self.tasks.tasks.values() for due in task.cursors.values()]
        wanted = (self.now, promoted, min(delayed, default=None), min(cursors, default=None))
        self._agree("promote", (limit,), (got.now_ms, got.promoted, got.next_run_ms, got.next_schedule_ms), wanted)

    def reclaim(self, worker: str, candidates: Sequence[str]) -> None:
        got = self._script("reclaim", worker, *candidates)
        self._agree("reclaim", (worker, candidates), tuple(got), self.oracle.reclaim(worker, candidates, self.now))

    def expire(self, candidates: Sequence[str]) -> None:
        got = self._script("expire", *candidates)
        self._agree("expire", (candidates,), got, self.oracle.expire(candidates, self.now))

    def pause_queue(self, queue: str, change: str) -> None:
        got = self._script("pause_queue", queue, change)
        self._agree("pause_queue", (queue, change), got, self.oracle.pause_queue(queue, change, self.now))

    def expand(self, run_id: str, workers: Sequence[str]) -> None:
        """A server has read what the run is, or one that is gone."""
        run = self._known(run_id)
        got = run_now(self._placements.expand(run, workers, now_ms=self.now))
        self._agree("expand", (run_id, workers), got or "", self.oracle.expand(run_id, workers, self.now))

    def _known(self, run_id: str) -> Run:
        found = run_now(self._runs.get_many([run_id]))
        nothing = Run(
            id=run_id,
            spec=RunSpec(type="x", params={}),
            state=State.QUEUED,
            attempt=0,
            worker=None,
            due_ms=0,
            history=(),
        )
        return found[0] if found else nothing

    def abandon(self, candidates: Sequence[str]) -> None:
        got = run_now(self._placements.abandon(candidates, now_ms=self.now))
        self._agree("abandon", (candidates,), got, self.oracle.abandon(candidates, self.now))

    def forget(self, why: str, bound: int, task: str, candidates: Sequence[str]) -> None:
        got = self._script("forget", why, bound, task, *candidates)
        wanted = self.retention.forget(why, bound, task, candidates, self.now)
        self._agree("forget", (why, bound, task, candidates), got, wanted)

    def save_task(
        self, name: str, revision: int | str, definition: str, enabled: int, plans: Sequence[SchedulePlan]
    ) -> None:
        flat = [part for plan in plans for part in plan.arguments]
        got = self._script("save_task", name, revision, definition, enabled, *flat)
        wanted = self.tasks.save_task(name, revision, definition, enabled, plans, self.now)
        got = [one.decode() if isinstance(one, bytes) else one for one in got]
        self._agree("save_task", (name, revision, definition, enabled, plans), got, wanted)

    def delete_task(self, name: str) -> None:
        got = self._script("delete_task", name)
        self._agree("delete_task", (name,), got, self.tasks.delete_task(name, self.now))

    def fire(self, fires: Sequence[Fire]) -> None:
        got = run_now(self._tasks.fire(fires, now_ms=self.now))
        self._agree("fire", (fires,), got, self.tasks.fire(fires, self.now))

    # What is no script.

    def forget_key(self, name: str) -> None:
        """A key of limited life expires."""
        kind, _, digest = name.partition(":")
        if kind == "unique" and self.oracle.unique.get(digest, ("", None))[1] is None:
            return
        self._direct.call("DEL", Keys().prefix + name)
        (self.oracle.unique if kind == "unique" else self.oracle.idempotent).pop(digest, None)
        self.calls.append(Call(self.now, "forget_key", (name,)))
        self._compare_keys()

    def read(self) -> None:
        """What the reading side makes of it: counters equal what they count, runs parse."""
        counts = Counter(run.state for run in self.oracle.runs.values())
        assert run_now(self._runs.count_by_state()) == {state: counts[state] for state in State}
        runs = run_now(self._runs.page(limit=1000)).runs
        assert [run.id for run in runs] == sorted(self.oracle.runs, reverse=True)
        waiting = [run for run in self.oracle.runs.values() if run.spec.is_child and run.state in WAITING]
        by_worker: dict[str, list[str]] = {}
        for child in sorted(waiting, key=lambda run: run.id):
            by_worker.setdefault(child.spec.requires["worker"], []).append(child.id)
        found = run_now(self._placements.waiting())
        assert {worker: sorted(ids) for worker, ids in found.items()} == by_worker
        for placed in (run for run in self.oracle.runs.values() if run.children):
            page = run_now(self._runs.page(parent=placed.id, limit=10))
            assert [run.id for run in page.runs] == sorted(placed.children, reverse=True)
        for run in runs:
            assert len(run.to_json(detail=True)["attempts"]) <= run.attempt


def _by_subject(lines: Sequence[str]) -> list[str]:
    """In the order of what they are about; lines about the same thing keep theirs."""
    return sorted(lines, key=lambda line: line.split(" ")[:2])
