"""Tasks, their cursors and ledgers in plain Python; the runs that firing makes are the oracle's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.oracle import Oracle

from taskman.model.misfire import Span
from taskman.model.states import State
from taskman.store.tasks import Fire, Firing

WANTED = {
    "success": {State.SUCCEEDED},
    "failure": {State.FAILED},
    "always": {State.SUCCEEDED, State.FAILED, State.CANCELLED},
}


@dataclass(frozen=True, slots=True)
class SchedulePlan:
    """What the script that saves a task is told of one schedule."""

    schedule: str
    due: int | None
    skips: int | None = None
    mark: str = ""
    most: int | None = None
    chain: tuple[tuple[str, str], ...] = ()

    @property
    def arguments(self) -> list[Any]:
        chain = " ".join(" ".join(pair) for pair in self.chain)
        values = (self.schedule, self.due, self.skips, self.mark, self.most, chain)
        return ["" if value is None else value for value in values]


@dataclass(slots=True, eq=False)
class OracleTask:
    """A task as its hash has it; `cursors` are the next due instants of its schedules, `fired` marks and counts."""

    created: int
    updated: int
    revision: int
    definition: str
    enabled: int
    cursors: dict[str, int] = field(default_factory=dict)
    skips: dict[str, int] = field(default_factory=dict)
    fired: dict[str, tuple[str, int]] = field(default_factory=dict)
    chains: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    met: dict[tuple[str, str], int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)
    ledger: dict[str, int] = field(default_factory=dict)


class TaskOracle:
    """The tasks of one shard. Each public method is one call of the script of that name."""

    def __init__(self, runs: Oracle) -> None:
        self.runs = runs
        runs.wake_downstream = self._wake_downstream
        self.tasks: dict[str, OracleTask] = {}
        self.retired = 0

    def save_task(
        self, name: str, revision: int | str, definition: str, enabled: int, plans: Sequence[SchedulePlan], now: int
    ) -> list[Any]:
        with self.runs.call(now):
            known = self.tasks.get(name)
            found = known.revision if known else 0
            if revision not in ("", found):
                return [-1, found]
            following = found + 1 if known else self.retired + 1
            saved = OracleTask(known.created if known else now, now, following, definition, enabled)
            saved.ledger = known.ledger if known else {}
            for plan in plans:
                self._arm(saved, plan, known)
            self.tasks[name] = saved
            self.runs.lines.append(f"task {name} {'changed' if known else 'created'}")
            earliest = min(saved.cursors.values(), default=None)
            return [saved.revision, saved.created, "" if earliest is None else str(earliest), int(known is None)]

    def _arm(self, saved: OracleTask, plan: SchedulePlan, known: OracleTask | None) -> None:
        counts = [count for mark, count in known.fired.values() if mark == plan.mark] if known and plan.mark else []
        if counts:
            saved.fired[plan.schedule] = (plan.mark, max(counts))
        if plan.most is not None and max(counts, default=0) >= plan.most:
            return
        if plan.chain:
            saved.chains[plan.schedule] = plan.chain
        if plan.due is None:
            return
        saved.cursors[plan.schedule] = plan.due
        if plan.skips is not None:
            saved.skips[plan.schedule] = plan.skips
        self.runs.lines.append(f"due {plan.due}")

    def delete_task(self, name: str, now: int) -> int:
        with self.runs.call(now):
            known = self.tasks.pop(name, None)
            if known is None:
                return 0
            self.retired = max(self.retired, known.revision)
            self.runs.lines.append(f"task {name} deleted")
            return 1

    def fire(self, fires: Sequence[Fire], now: int) -> list[bool]:
        with self.runs.call(now):
            return [self._fire(fire, now) for fire in fires]

    def _fire(self, fire: Fire, now: int) -> bool:
        task, schedule = self.tasks.get(fire.due.task), str(fire.due.schedule)
        if task is None or (task.revision, task.enabled) != (fire.revision, 1):
            return False
        if task.cursors.get(schedule) != fire.due.due_ms:
            return False
        if fire.runs and fire.due.due_ms > now:
            return False
        self._move_on(task, schedule, fire)
        for span in fire.spans:
            entry = f"{span.last_ms} {span.outcome} {schedule} {span.first_ms} {span.count} {_reason(span)}"
            task.ledger[entry] = span.last_ms
        for firing in fire.runs:
            self._make(task, schedule, firing)
        return True

    def _make(self, task: OracleTask, schedule: str, firing: Firing) -> None:
        run = self.runs.runs.get(firing.run_id) or self.runs.create(
            firing.run_id, firing.spec, firing.due_ms, firing.overlap, "scheduler"
        )
        outcome = "skipped" if run.state is State.SKIPPED else "fired"
        task.ledger[f"{firing.fire_time_ms} {outcome} {schedule} {firing.run_id}"] = firing.fire_time_ms

    def _move_on(self, task: OracleTask, schedule: str, fire: Fire) -> None:
        task.cursors.pop(schedule)
        task.skips.pop(schedule, None)
        if fire.next_ms is not None and not fire.is_over:
            task.cursors[schedule] = fire.next_ms
        if fire.skips_ms is not None:
            task.skips[schedule] = fire.skips_ms
        if fire.is_over:
            task.chains.pop(schedule, None)
        elif schedule in task.chains:
            self._complete(task, schedule)
        if fire.mark:
            before = task.fired.get(schedule, ("", 0))[1]
            task.fired[schedule] = (fire.mark, before + len(fire.runs))

    def _wake_downstream(self, ended: dict[str, set[State]]) -> None:
        """All ends count before any set is complete."""
        chains = [(task, schedule, chain) for task in self.tasks.values() for schedule, chain in task.chains.items()]
        met = [
            (task, schedule)
            for task, schedule, chain in chains
            for above, on in chain
            if above in ended and self._is_met(task, schedule, above, on, ended[above])
        ]
        for task, schedule in met:
            self._complete(task, schedule)

    def _is_met(self, task: OracleTask, schedule: str, above: str, on: str, states: set[State]) -> bool:
        if on.isdigit():
            least = 1 if states & WANTED["always"] else 1000
            self._set_due(task, schedule, self.runs.now + max(int(on), least))
        elif states & WANTED[on]:
            task.met[schedule, above] = self.runs.now
            return True
        return False

    def _complete(self, task: OracleTask, schedule: str) -> None:
        wanted = [(schedule, above) for above, _ in task.chains[schedule]]
        if schedule in task.cursors or not all(one in task.met for one in wanted):
            return
        due = max(task.met.pop(one) for one in wanted)
        task.last[schedule] = due + (due == task.last.get(schedule, 0))
        self._set_due(task, schedule, task.last[schedule])

    def _set_due(self, task: OracleTask, schedule: str, due: int) -> None:
        task.cursors[schedule] = due
        self.runs.lines.append(f"due {due}")


def _reason(span: Span) -> str:
    return span.reason or ("calendar" if span.outcome == "skipped" else "-")
