"""The scheduler: promotes delayed runs and fires schedules when they are due. Any number of servers may run one."""

from __future__ import annotations

import logging

import trio

from ..errors import StoreError
from ..model.events import DueEvent
from ..model.ids import scheduled_run_id
from ..model.task import Task
from ..store.events import Listener
from ..store.runs import Promotion
from ..store.store import Store
from ..store.tasks import Due, Fire

__all__ = ["Scheduler", "plan"]

# A sleeper looks at the store at least so often, whatever it believes about the next due time.
_LONGEST_SLEEP_S = 60.0
_RETRY_S = 0.5
_BATCH = 200
_log = logging.getLogger("taskman.scheduler")


class Scheduler:
    """Sleeps until something is due; an event of something earlier wakes it. There is no polling tick."""

    def __init__(self, store: Store) -> None:
        self._store = store
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
            promotion = await self._store.runs.promote()
            if promotion.next_schedule_ms is not None and promotion.next_schedule_ms <= promotion.now_ms:
                await self._fire_due(promotion.now_ms)
                return
        except StoreError as error:
            _log.warning("the store refused: %s", error)
            await trio.sleep(_RETRY_S)
            return
        await self._sleep(promotion)

    async def _sleep(self, promotion: Promotion) -> None:
        upcoming = [at for at in (promotion.next_run_ms, promotion.next_schedule_ms) if at is not None]
        wait_s = min(_LONGEST_SLEEP_S, max(0.0, (min(upcoming) - promotion.now_ms) / 1000) if upcoming else 1e9)
        self._sleeping_until_ms = promotion.now_ms + round(wait_s * 1000)
        with trio.move_on_after(wait_s):
            await self._earlier.wait()

    async def _watch(self, listener: Listener) -> None:
        async for batch in listener:
            dues = [event.at_ms for event in batch.events if isinstance(event, DueEvent)]
            if batch.gap or (dues and (self._sleeping_until_ms == 0 or min(dues) < self._sleeping_until_ms)):
                self._earlier.set()

    async def _fire_due(self, now_ms: int) -> None:
        """Commit what is due; that another server was first is the ordinary case with several."""
        due = await self._store.tasks.due(now_ms, _BATCH)
        tasks = {task.name: task for task in await self._store.tasks.get_many(sorted({one.task for one in due}))}
        plans: list[Fire] = []
        for one in due:
            task = tasks.get(one.task)
            if task is None or one.schedule >= len(task.definition.schedules):
                await self._store.tasks.forget_due(one)
            else:
                plans.append(plan(one, task, now_ms))
        if plans:
            await self._store.tasks.fire(plans)


def plan(due: Due, task: Task, now_ms: int) -> Fire:
    """What to commit for a due schedule: pure.

    A due instant that is a little late fires; of those that nobody was there for, the latest fires and the ones
    before it are recorded as missed.
    """
    schedule = task.definition.schedules[due.schedule]
    fire_time = due.due_ms
    missed = None
    if schedule.is_missed(due.due_ms, now_ms):
        fire_time = schedule.latest(due.due_ms, now_ms)
        if fire_time > due.due_ms:
            missed = (due.due_ms, schedule.latest(due.due_ms, fire_time - 1))
    return Fire(
        due=due,
        revision=task.revision,
        next_ms=schedule.next(fire_time),
        fire_time_ms=fire_time,
        run_id=scheduled_run_id(0, task.name, str(due.schedule), fire_time),
        spec=task.spec(trigger="schedule", fire_time_ms=fire_time),
        overlap=task.overlap_for("schedule"),
        missed_ms=missed,
    )
