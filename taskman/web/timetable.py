"""What is due when: the preview of a schedule, the next due instants of a task, and all schedules by their next one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ..errors import Fault, InvalidInput
from ..model.instants import datetime_of, format_instant
from ..model.inwords import in_words
from ..model.preview import Coming, Preview, Surroundings, coming, preview
from ..model.run import Run
from ..model.schedule import Schedule
from ..model.states import State
from ..model.task import Task
from ..model.validation import Instant, validate
from .services import Services

__all__ = ["Entry", "next_of", "preview_of", "surroundings", "timetable"]

# As many tasks are looked at for collisions, some at a time, and as many runs for the usual length.
_NEIGHBOURS, _PAGE, _RUNS = 2000, 200, 20
# Of schedules that are due at the same instants one is asked, for all of them: these tell nothing about instants.
_NO_MATTER = frozenset({"params", "max_runs", "jitter", "catchup", "catchup_window", "catchup_max"})
# So many different ones are asked at most: each costs some 10 µs for each instant that is shown.
_DIFFERENT = 500
_YEARS = range(1970, 2200)


class PreviewRequest(BaseModel):
    """What `POST /schedules/preview` takes beside the schedule itself."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    n: int = Field(10, ge=1, le=100, description="how many")
    since: Instant | None = Field(None, alias="from", description="the instant to look from; default: now")


async def preview_of(services: Services, body: object) -> Preview:
    """The preview of a schedule. Raises InvalidInput, also when it never fires."""
    if not isinstance(body, Mapping):
        raise InvalidInput("send a JSON object")
    faults: list[Fault] = []
    parts: list[Any] = []
    own = {name: value for name, value in body.items() if name in ("n", "from")}
    for model, part in ((PreviewRequest, own), (Schedule, {k: v for k, v in body.items() if k not in own})):
        try:
            parts.append(validate(model, part))
        except InvalidInput as error:
            faults += error.faults
    if faults:
        raise InvalidInput(faults)
    request: PreviewRequest
    schedule: Schedule
    request, schedule = parts
    since = await services.store.runs.now() if request.since is None else request.since
    if datetime_of(since).year not in _YEARS:
        raise InvalidInput(f"'from' lies between {_YEARS.start} and {_YEARS.stop}", "/from")
    settled = schedule.settled(services.timezone, since)
    found = preview(settled, since, request.n, await surroundings(services))
    if settled.is_timed and not found.items:
        when = format_instant(since)
        raise InvalidInput(f"is never due after {when}, or not within ten years", f"/{settled.kind}")
    return found


async def surroundings(services: Services, task: str | None = None) -> Surroundings:
    """What is around a schedule of that task, or of a new one: other schedules, and how long the task usually takes."""
    others: dict[str, tuple[Schedule, int]] = {}
    cursor, looked_at = None, 0
    while looked_at < _NEIGHBOURS and len(others) < _DIFFERENT:
        tasks, cursor = await services.store.tasks.page(_PAGE, cursor)
        looked_at += len(tasks)
        for schedule in _timed(one for one in tasks if one.name != task and one.definition.enabled):
            key = schedule.model_dump_json(exclude=set(_NO_MATTER))
            others[key] = schedule, others.get(key, (schedule, 0))[1] + 1
        if cursor is None:
            break
    usual_s = None if task is None else await _usual_s(services, task)
    return Surroundings(task, usual_s, list(others.values()), cursor is None)


def _timed(tasks: Iterable[Task]) -> Iterator[Schedule]:
    return (schedule for one in tasks for schedule in one.definition.schedules if schedule.is_timed)


async def _usual_s(services: Services, task: str) -> float | None:
    """How long the task's last successful runs took: the median."""
    page = await services.store.runs.page(task=task, states=[State.SUCCEEDED], limit=_RUNS)
    lengths = [
        (run.finished_ms - run.started_ms) / 1000
        for run in page.runs
        if run.started_ms is not None and run.finished_ms is not None
    ]
    return median(lengths) if lengths else None


async def next_of(services: Services, task: Task, count: int) -> list[tuple[int, Coming]]:
    """The next due instants of a task, each with the number of its schedule; none when it is switched off."""
    if not task.definition.enabled:
        return []
    now_ms = await services.store.runs.now()
    around = await surroundings(services, task.name)
    found = [
        (number, one)
        for number, schedule in enumerate(task.definition.schedules)
        if number in task.cursors
        for one in coming(schedule, max(now_ms, task.accounted_ms(number)), count, around)
    ]
    return list(islice(sorted(found, key=lambda pair: pair[1].at_ms), count))


@dataclass(frozen=True, slots=True)
class Entry:
    """One schedule of a task, when it is due next, and the task's last run."""

    task: str
    number: int
    schedule: Schedule
    next_ms: int
    last: Run | None

    @property
    def text(self) -> str:
        """The schedule in words."""
        return in_words(self.schedule)

    def to_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "task": self.task,
            "number": self.number,
            "schedule": self.schedule.to_json(),
            "text": self.text,
            "next_at": format_instant(self.next_ms),
            "last_at": format_instant(self.last.created_ms if self.last else None),
            "last_run": self.last.id if self.last else None,
        }


async def timetable(services: Services, limit: int, start: int = 0) -> tuple[list[Entry], int | None]:
    """Schedules by their next due instant, from place `start` on; and the place of the next page."""
    store = services.store
    found = await store.tasks.agenda(limit + 1, start)
    shown = found[:limit]
    names = sorted({due.task for due in shown})
    tasks = {task.name: task for task in await store.tasks.get_many(names)}
    last_ids = dict(zip(names, await store.tasks.last_run_ids(names), strict=True))
    runs = {run.id: run for run in await store.runs.get_many([one for one in last_ids.values() if one])}
    entries = [
        Entry(
            due.task,
            due.schedule,
            tasks[due.task].definition.schedules[due.schedule],
            due.due_ms,
            runs.get(last_ids[due.task] or ""),
        )
        for due in shown
        if due.task in tasks and due.schedule < len(tasks[due.task].definition.schedules)
    ]
    return entries, start + limit if len(found) > limit else None
