"""What people do by hand to the schedules of a task: pause, resume, skip the next due instant, run past ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ..errors import Conflict, Fault, InvalidInput
from ..model.ids import scheduled_run_id
from ..model.instants import format_instant
from ..model.misfire import Span
from ..model.task import Task
from ..model.validation import Instant, validate
from ..store.runs import Receipt, Submission
from ..store.tasks import Due, Fire, LedgerEntry
from .actions import get_task
from .services import Services

__all__ = ["Backfill", "BackfillRequest", "backfill", "ledger_json", "set_paused", "skip_next"]

MOST_BACKFILLED = 1000
_BATCH = 200
_TRIES = 5


class SkipRequest(BaseModel):
    """The body of `POST /tasks/{name}/skip`."""

    model_config = ConfigDict(extra="forbid")

    schedule: int | None = Field(None, ge=0, description="its number within the task; default: the earliest")
    at: Instant | None = Field(None, description="the instant that is meant: no other one is skipped in its place")


class BackfillRequest(BaseModel):
    """The body of `POST /tasks/{name}/backfill`."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    since: Instant = Field(alias="from", description="the first instant")
    to: Instant = Field(description="the last instant; not in the future")
    schedule: int | None = Field(
        None, ge=0, description="its number within the task; default: all that go by the clock"
    )
    dry_run: bool = Field(False, description="only count")


async def set_paused(services: Services, name: str, *, paused: bool) -> Task:
    """Switch the schedules of a task off or on; on, they owe nothing of the meantime. Raises NotFound, Conflict."""
    for _ in range(_TRIES):
        task = await get_task(services, name)
        if task.definition.enabled is not paused:
            return task
        definition = task.definition.model_copy(update={"enabled": not paused})
        try:
            return await services.store.tasks.save(definition, await services.store.runs.now(), revision=task.revision)
        except Conflict:
            continue  # somebody has edited it meanwhile: what they wrote stays
    raise Conflict(f"task '{name}' is being changed all the time: try again")


async def skip_next(services: Services, name: str, body: object) -> tuple[Due, Task]:
    """Let the next due instant pass, recorded as skipped by request; which it was, and the task then.

    Raises: NotFound, InvalidInput, Conflict when nothing is due, or it is not the instant that was meant.
    """
    wanted = validate(SkipRequest, body)
    for _ in range(_TRIES):
        task = await get_task(services, name)
        _check_number(task, wanted.schedule)
        candidates = [
            Due(name, number, due_ms)
            for number, due_ms in task.cursors.items()
            if wanted.schedule in (None, number) and task.definition.schedules[number].is_timed
        ]
        if not candidates:
            raise Conflict(f"task '{name}' has nothing due that could be skipped")
        due = min(candidates, key=lambda one: (one.due_ms, one.schedule))
        if wanted.at not in (None, due.due_ms):
            raise Conflict("nothing was skipped: that instant has passed, or was skipped before")
        if (await services.store.tasks.fire([_skip(due, task)]))[0]:
            return due, await get_task(services, name)
    raise Conflict(f"task '{name}' is being changed all the time: try again")


def _skip(due: Due, task: Task) -> Fire:
    schedule = task.definition.schedules[due.schedule]
    following = schedule.next(due.due_ms)
    next_ms = None if following is None else schedule.next_open(following)
    return Fire(
        due=due,
        revision=task.revision,
        next_ms=next_ms,
        skips_ms=None if next_ms == following else following,
        spans=[*task.closed_before(due.schedule, due.due_ms), Span("skipped", due.due_ms, due.due_ms, 1, "requested")],
    )


def _check_number(task: Task, number: int | None) -> None:
    count = len(task.definition.schedules)
    if number is not None and number >= count:
        there = f"numbers go from 0 to {count - 1}" if count else "it has none"
        raise InvalidInput(f"task '{task.name}' has no schedule {number}: {there}", "/schedule")


@dataclass(frozen=True, slots=True)
class Backfill:
    """What a backfill comes to: the instants, and the ids of the runs that were made for them now.

    `past`: how many of the instants had their run before.
    """

    instants: list[tuple[int, int]]
    created: list[str]
    past: int

    def to_json(self) -> dict[str, Any]:
        """As the API shows it."""
        first, last = (self.instants[0][0], self.instants[-1][0]) if self.instants else (None, None)
        return {
            "count": len(self.instants),
            "first": format_instant(first),
            "last": format_instant(last),
            "created": len(self.created),
            "runs": self.created,
        }


async def backfill(services: Services, name: str, body: object, *, by: str, trigger: str) -> Backfill:
    """Run the instants of a stretch of the past; one that has had its run, by whatever way, gets no second one.

    The ledger stays as it is: it says what became of each instant when it was due. Raises: NotFound, InvalidInput.
    """
    wanted = validate(BackfillRequest, body)
    task = await get_task(services, name)
    _check_number(task, wanted.schedule)
    now_ms = await services.store.runs.now()
    if wanted.to < wanted.since:
        raise InvalidInput("'to' is before 'from'", "/to")
    if wanted.to > now_ms:
        raise InvalidInput("'to' lies in the future: a backfill runs what is past", "/to")
    _check_count(task, wanted)
    instants = sorted(_instants(task, wanted))
    if wanted.dry_run:
        ids = [_run_id(task, number, at_ms) for at_ms, number in instants]
        return Backfill(instants, [], len(await services.store.runs.known(ids)))
    submissions = [_submission(task, number, at_ms, trigger) for at_ms, number in instants]
    receipts: list[Receipt] = []
    for first in range(0, len(submissions), _BATCH):
        receipts += await services.store.runs.submit(submissions[first : first + _BATCH], by=by)
    created = [one.run_id for one in receipts if one.outcome == "created"]
    return Backfill(instants, created, sum(one.outcome == "there" for one in receipts))


def _check_count(task: Task, wanted: BackfillRequest) -> None:
    count = sum(
        schedule.count(wanted.since - 1, wanted.to)
        for number, schedule in enumerate(task.definition.schedules)
        if wanted.schedule in (None, number)
    )
    if count > MOST_BACKFILLED:
        detail = f"{count:,} instants are due in that time, at most {MOST_BACKFILLED:,} at once: take a shorter one"
        raise InvalidInput([Fault("/from", detail)])


def _instants(task: Task, wanted: BackfillRequest) -> Iterator[tuple[int, int]]:
    for number, schedule in enumerate(task.definition.schedules):
        if wanted.schedule not in (None, number):
            continue
        count = schedule.count(wanted.since - 1, wanted.to)
        for at_ms in schedule.upcoming(wanted.since - 1, count):
            if schedule.opening.closed_since(at_ms) is None:
                yield at_ms, number


def _submission(task: Task, number: int, at_ms: int, trigger: str) -> Submission:
    spec = task.spec(trigger=trigger, fire_time_ms=at_ms, params=task.definition.schedules[number].params)
    run_id = _run_id(task, number, at_ms)
    return Submission(run_id, spec, on_conflict="return", overlap=task.definition.overlap)


def _run_id(task: Task, number: int, at_ms: int) -> str:
    return scheduled_run_id(0, task.name, str(number), at_ms)


def ledger_json(entry: LedgerEntry) -> dict[str, Any]:
    """As the API shows it; a range has the first of its instants as `since`, and their number."""
    return {
        "fire_time": format_instant(entry.fire_time_ms),
        "outcome": entry.outcome,
        "reason": entry.reason,
        "run": entry.run_id,
        "schedule": entry.schedule,
        "since": format_instant(entry.since_ms if entry.count > 1 else None),
        "count": entry.count,
    }
