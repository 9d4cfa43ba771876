"""What the oracle knows, and the rules of a change of state that its scripts share."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from engine.oracle_run import WAITING, OracleRun

from taskman.model.run import RunSpec
from taskman.model.states import State
from taskman.store.logs import Chunk

AGEING_MS = 300_000
WORTH_COMPACTING = 4096


class Rules:
    """The runs of one shard at `now`, and what has been told of them in a call."""

    def __init__(self) -> None:
        self.now = 0
        self.runs: dict[str, OracleRun] = {}
        self.signatures: set[str] = set()
        self.paused: set[str] = set()
        self.unique: dict[str, tuple[str, int | None]] = {}
        self.idempotent: dict[str, str] = {}
        self.logs: dict[str, list[tuple[int, Chunk]]] = defaultdict(list)
        self.unpacked: set[str] = set()
        self.lines: list[str] = []
        self.published: list[tuple[str, str]] = []
        self._freed: set[str] = set()
        self._ended: Counter[str] = Counter()
        self._ended_tasks: dict[str, set[State]] = defaultdict(set)
        self.wake_downstream: Callable[[dict[str, set[State]]], None] = lambda ended: None

    @contextmanager
    def call(self, now: int) -> Iterator[None]:
        """One script: afterwards, placed runs end with their children, and who waits for a permit gets its turn."""
        self.now, self.lines, self.published, self._freed, self._ended = now, [], [], set(), Counter()
        yield
        for parent in self._ended:
            self._join(self.runs[parent])
        for permit in self._freed:
            self._unblock(permit)
        self.wake_downstream(self._ended_tasks)
        self._ended_tasks.clear()

    # What the rules look at.

    def holders(self) -> Counter[str]:
        return Counter(permit for run in self.runs.values() if run.holds for permit in run.spec.permits)

    def children(self, run: OracleRun) -> list[OracleRun]:
        return [self.runs[child] for child in run.children]

    def live(self, group: str) -> list[OracleRun]:
        return [run for run in self.runs.values() if run.spec.group == group and not run.is_final]

    def unique_holder(self, spec: RunSpec) -> str | None:
        """The run that holds the key of such a run; one that was forgotten, only while a period lasts."""
        digest, _, lasts = (spec.unique or "").partition(":")
        holder = self.unique[digest][0] if digest in self.unique else None
        return holder if lasts.isdigit() or holder in self.runs else None

    def depth(self, queue: str) -> int:
        return sum(
            run.state is State.QUEUED and run.spec.queue == queue and not run.spec.is_child
            for run in self.runs.values()
        )

    # One change of state.

    def _change(self, run: OracleRun, to: State, reason: str, by: str) -> None:
        run.state = to
        run.history += f"{self.now} {to} {reason} {run.attempt} {by}\n"
        self.tell(run, reason)
        if run.is_final:
            self._close(run)

    def tell(self, run: OracleRun, reason: str) -> None:
        words = (run.id, run.state, reason, run.attempt, run.worker or "-", run.task or "-", run.sig)
        self.lines.append(" ".join(["run", *map(str, words)]))

    def _close(self, run: OracleRun) -> None:
        if run.task:
            self._ended_tasks[run.task].add(run.state)
        run.start_by = run.end_by = None
        self._forget_unique(run, "active")
        self._forget_unique(run, "pending")
        self.published.append((f"run:{run.id}:log", "end"))
        if run.spec.is_child:
            self._ended[run.spec.parent or ""] += 1
        if (run.log_weight or 0) >= WORTH_COMPACTING:
            self.unpacked.add(run.id)
        run.log_weight = None

    def _forget_unique(self, run: OracleRun, while_: str) -> None:
        digest, lasts = run.unique
        if lasts == while_ and digest in self.unique and self.unique[digest][0] == run.id:
            del self.unique[digest]

    def _make_ready(self, run: OracleRun) -> None:
        run.score = self.now - run.spec.priority * AGEING_MS
        self._call_placement(run)

    def _call_placement(self, run: OracleRun) -> None:
        if run.is_placed:
            self.lines.append(f"place {run.sig}")

    def _unblock(self, permit: str) -> None:
        held = self.holders()[permit]
        lines: dict[tuple[int, str], list[OracleRun]] = defaultdict(list)
        for run in self.runs.values():
            if run.state is State.BLOCKED and run.waits_for == permit:
                lines[run.spec.permits[permit], run.sig].append(run)
        for (room, _), waiting in lines.items():
            for run in sorted(waiting, key=lambda run: (run.score, run.id))[: max(0, room - held)]:
                self._change(run, State.QUEUED, "unblocked", "watchdog")
                self._call_placement(run)

    def _unlease(self, run: OracleRun) -> None:
        run.suspect = False
        self._freed.update(run.spec.permits)

    def _end_waiting(self, run: OracleRun, to: State, reason: str, by: str) -> None:
        self._freed.update(run.spec.permits)
        self._change(run, to, reason, by)

    def _cancel(self, run: OracleRun, reason: str, by: str) -> None:
        if run.state is State.RUNNING:
            self._change(run, State.CANCELLING, reason, by)
            for child in self.children(run):
                self._cancel(child, reason, by)
        elif run.state in WAITING:
            self._end_waiting(run, State.CANCELLED, reason, by)

    def _end_cancelling(self, run: OracleRun, by: str) -> None:
        if run.ending:
            self._change(run, State.FAILED, run.ending, by)
        else:
            self._change(run, State.CANCELLED, "requested", by)

    def _join(self, run: OracleRun) -> None:
        """Once the last child has ended, the run has."""
        ends = {child.spec.requires["worker"]: child for child in self.children(run)}
        if not all(child.is_final for child in ends.values()):
            return None
        counts = Counter(child.state for child in ends.values())
        named = (State.SUCCEEDED, State.FAILED, State.CANCELLED)
        run.result = json.dumps(
            {state.value: counts[state] for state in named}
            | {"workers": {name: {"run": child.id, "state": child.state} for name, child in _listed(ends)}},
            separators=(",", ":"),
        )
        self._unlease(run)
        if counts[State.SUCCEEDED] == len(ends):
            return self._change(run, State.SUCCEEDED, "-", "placement")
        if run.state is State.CANCELLING:
            return self._end_cancelling(run, "placement")
        run.error = f"did not succeed on {len(ends) - counts[State.SUCCEEDED]} of {len(ends)} workers"
        return self._change(run, State.FAILED, "children", "placement")


def _listed(ends: Mapping[str, OracleRun]) -> list[tuple[str, OracleRun]]:
    """In the order in which a result lists children: those that did not succeed first, then by id."""
    return sorted(ends.items(), key=lambda one: (one[1].state is State.SUCCEEDED, one[1].id))
