"""Tasks, their cursors and ledgers in plain Python; the runs that firing makes are the oracle's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.oracle import Oracle

from taskman.model.states import State
from taskman.store.tasks import Fire


@dataclass(slots=True, eq=False)
class OracleTask:
    """A task as its hash has it; `cursors` are the next due instants of its schedules."""

    created: int
    updated: int
    revision: int
    definition: str
    enabled: int
    cursors: dict[str, int] = field(default_factory=dict)
    ledger: dict[str, int] = field(default_factory=dict)


class TaskOracle:
    """The tasks of one shard. Each public method is one call of the script of that name."""

    def __init__(self, runs: Oracle) -> None:
        self.runs = runs
        self.tasks: dict[str, OracleTask] = {}

    def save_task(
        self, name: str, revision: int | str, definition: str, enabled: int, cursors: dict[str, int], now: int
    ) -> list[int]:
        with self.runs.call(now):
            known = self.tasks.get(name)
            found = known.revision if known else 0
            if revision not in ("", found):
                return [-1, found]
            saved = OracleTask(known.created if known else now, now, found + 1, definition, enabled, dict(cursors))
            saved.ledger = known.ledger if known else {}
            self.tasks[name] = saved
            self.runs.lines += [f"due {due}" for due in cursors.values()]
            self.runs.lines.append(f"task {name} {'changed' if known else 'created'}")
            return [saved.revision, saved.created]

    def delete_task(self, name: str, now: int) -> int:
        with self.runs.call(now):
            if self.tasks.pop(name, None) is None:
                return 0
            self.runs.lines.append(f"task {name} deleted")
            return 1

    def fire(self, fires: Sequence[Fire], now: int) -> list[bool]:
        with self.runs.call(now):
            return [self._fire(fire) for fire in fires]

    def _fire(self, fire: Fire) -> bool:
        task, schedule = self.tasks.get(fire.due.task), str(fire.due.schedule)
        if task is None or (task.revision, task.enabled) != (fire.revision, 1):
            return False
        if task.cursors.get(schedule) != fire.due.due_ms:
            return False
        self._move_on(task, schedule, fire)
        run = self.runs.runs.get(fire.run_id) or self.runs.create(
            fire.run_id, fire.spec, fire.fire_time_ms, fire.overlap, "scheduler"
        )
        outcome = "skipped" if run.state is State.SKIPPED else "fired"
        task.ledger[f"{fire.fire_time_ms} {outcome} {schedule} {fire.run_id}"] = fire.fire_time_ms
        return True

    def _move_on(self, task: OracleTask, schedule: str, fire: Fire) -> None:
        if fire.missed_ms:
            first, last = fire.missed_ms
            task.ledger[f"{last} missed {schedule} {first}"] = last
        if fire.next_ms is None:
            del task.cursors[schedule]
        else:
            task.cursors[schedule] = fire.next_ms
