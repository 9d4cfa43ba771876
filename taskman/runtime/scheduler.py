"""The scheduler: promotes delayed runs and fires schedules when they are due. Any number of servers may run one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import trio

from ..errors import InvalidInput, StoreError
from ..model.events import DueEvent
from ..model.ids import scheduled_run_id
from ..model.misfire import Span, plan_due
from ..model.schedule import Schedule
from ..model.task import Task
from ..store.events import Listener
from ..store.store import Store
from ..store.tasks import Due, Fire, Firing
from .store_clock import StoreClock

__all__ = ["Scheduler", "plan"]

# A sleeper looks at the store at least so often, whatever it believes about the next due time.
_LONGEST_SLEEP_S = 60.0
_RETRY_S = 0.5
# What is due next is read and planned so long before, so that at the instant itself one script is all there is to do.
_AHEAD_MS = 150
# A plan made ahead is thrown away when this process stood still: what was missed meanwhile has rules of its own.
_STALE_S = 1.0
_CHUNK, _OVERDUE, _AHEAD = 50, 200, 1000
_MOST_RUNS = 250
_log = logging.getLogger("taskman.scheduler")


class Scheduler:
    """Sleeps until something is due; an event of something earlier wakes it. There is no polling tick."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._clock = StoreClock()
        self._earlier = trio.Event()
        self._sleeping_until_ms = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Promote and fire for ever. Cancellation between two commits loses nothing."""
        with self._store.events.listen(DueEvent) as listener:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, listener)
                task_status.started()
                while True:
                    await self._turn()

    async def _turn(self) -> None:
        self._earlier, self._sleeping_until_ms = trio.Event(), 0
        try:
            asked_at = trio.current_time()
            promotion = await self._store.runs.promote()
            self._clock.read(promotion.now_ms, asked_at)
            run_ms, schedule_ms = promotion.next_run_ms, promotion.next_schedule_ms
            if schedule_ms is not None and schedule_ms <= promotion.now_ms:
                await self._fire(await self._plans(promotion.now_ms, _OVERDUE))
            elif schedule_ms is not None and (run_ms is None or schedule_ms <= run_ms):
                await self._fire_on_time(schedule_ms)
            else:
                await self._sleep(run_ms)
        except StoreError as error:
            _log.warning("the store refused: %s", error)
            await trio.sleep(_RETRY_S)

    async def _fire_on_time(self, due_ms: int) -> None:
        """Plan what is due at that instant a little before it, and commit it then, unless something comes between.

        An edit in the meantime makes the plan's revision old, and what another server commits moves the cursor: the
        script then leaves things as they are, and the next turn looks again.
        """
        if not await self._sleep(due_ms, until_ms=due_ms - _AHEAD_MS):
            return
        plans = await self._plans(due_ms, _AHEAD)
        if await self._sleep(due_ms) and self._clock.late_s(due_ms) < _STALE_S:
            await self._fire(plans)

    async def _sleep(self, next_ms: int | None, *, until_ms: int | None = None) -> bool:
        """Sleep until what is due next, or until a moment before it; False when it is time to look again first."""
        self._sleeping_until_ms = self._clock.ms_in(_LONGEST_SLEEP_S) if next_ms is None else next_ms
        wait_s = -self._clock.late_s(self._sleeping_until_ms if until_ms is None else until_ms)
        with trio.move_on_after(max(0.0, min(_LONGEST_SLEEP_S, wait_s))):
            await self._earlier.wait()
        return not self._earlier.is_set() and wait_s <= _LONGEST_SLEEP_S

    async def _watch(self, listener: Listener) -> None:
        async for batch in listener:
            dues = [event.at_ms for event in batch.events if isinstance(event, DueEvent)]
            if batch.gap or (dues and (self._sleeping_until_ms == 0 or min(dues) < self._sleeping_until_ms)):
                self._earlier.set()

    async def _plans(self, now_ms: int, limit: int) -> list[Fire]:
        """What to commit of the schedules that are due at that time, the longest overdue first."""
        due = await self._store.tasks.due(now_ms, limit)
        plans: list[Fire] = []
        for first in range(0, len(due), _CHUNK):
            some = due[first : first + _CHUNK]
            tasks = {task.name: task for task in await self._store.tasks.get_many(sorted({one.task for one in some}))}
            for one in some:
                planned = _planned(one, tasks.get(one.task), now_ms)
                if planned is None:
                    await self._store.tasks.forget_due(one)
                else:
                    plans.append(planned)
        return plans

    async def _fire(self, plans: Sequence[Fire]) -> None:
        """Commit them; that another server was first is the ordinary case with several, and it does the rest too."""
        for some in _batches(plans):
            if not any(await self._store.tasks.fire(some)):
                return


def _planned(due: Due, task: Task | None, now_ms: int) -> Fire | None:
    if task is None or due.schedule >= len(task.definition.schedules):
        return None
    try:
        return plan(due, task, now_ms)
    except InvalidInput as error:  # it was checked when it was saved: some other version of us did that
        _log.error("schedule %d of task %s cannot fire: %s; save it again", due.schedule, due.task, error)
        return None


def _batches(plans: Sequence[Fire]) -> Iterator[list[Fire]]:
    """As many as one script may take: it keeps everybody else from Redis."""
    batch: list[Fire] = []
    runs = 0
    for one in plans:
        if batch and runs + len(one.runs) > _MOST_RUNS:
            yield batch
            batch, runs = [], 0
        batch.append(one)
        runs += len(one.runs)
    if batch:
        yield batch


def plan(due: Due, task: Task, now_ms: int) -> Fire:
    """What to commit for a due schedule: the outcome of each of its instants up to now. Pure."""
    number, schedule = due.schedule, task.definition.schedules[due.schedule]
    if not schedule.is_timed:
        return _plan_after(due, task, schedule, now_ms)
    planned = plan_due(schedule, due.due_ms, now_ms, fired=task.fired.get(number, 0))
    following = planned.next_ms
    next_ms = None if following is None else schedule.next_open(following)
    return Fire(
        due=due,
        revision=task.revision,
        next_ms=next_ms,
        skips_ms=None if next_ms == following else following,
        mark="" if schedule.max_runs is None else schedule.mark,
        spans=[*task.closed_before(number, due.due_ms), *(span for span in planned.spans if span.outcome != "fired")],
        runs=[_firing(due, task, at_ms, now_ms) for at_ms in planned.fires],
    )


def _plan_after(due: Due, task: Task, schedule: Schedule, now_ms: int) -> Fire:
    """What to commit for a schedule that is due because runs have ended: nothing is ever missed.

    What comes before its start or in closed time is put off for a delay, and passes for a chain.
    """
    at_ms, fired = due.due_ms, task.fired.get(due.schedule, 0)
    base = Fire(due=due, revision=task.revision, next_ms=None, mark="" if schedule.max_runs is None else schedule.mark)
    if (schedule.end is not None and at_ms > schedule.end) or fired >= (schedule.max_runs or fired + 1):
        return replace(base, is_over=True)
    put_off = schedule.first_open(max(at_ms, schedule.start or at_ms))
    if put_off > at_ms:
        is_closed = schedule.opening.closed_since(at_ms) is not None
        spans = [Span("skipped", at_ms, at_ms, 1)] if is_closed else []
        return replace(base, next_ms=put_off if schedule.is_periodic else None, spans=spans)
    return replace(base, runs=[_firing(due, task, at_ms, now_ms)], is_over=fired + 1 == schedule.max_runs)


def _firing(due: Due, task: Task, at_ms: int, now_ms: int) -> Firing:
    """The run of one instant. Several that are caught up on wait for each other, unless the task says otherwise."""
    schedule = task.definition.schedules[due.schedule]
    queues = schedule.catchup == "all" and task.definition.overlap is None and schedule.is_missed(at_ms, now_ms)
    return Firing(
        fire_time_ms=at_ms,
        due_ms=at_ms + schedule.jitter_ms(task.name, at_ms),
        run_id=scheduled_run_id(0, task.name, str(due.schedule), at_ms),
        spec=task.spec(trigger="schedule", fire_time_ms=at_ms, params=schedule.params),
        overlap="queue" if queues else task.overlap_for("schedule"),
    )
