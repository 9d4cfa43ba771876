"""What both the API and the pages do: the one way to create runs and save tasks, with the same checks for both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import Conflict, Fault, InvalidInput, NotFound, QueueFull, nearest
from ..model.chain import circle_through
from ..model.ids import new_run_id
from ..model.run import Run, RunSpec, check_sizes
from ..model.schedule import Schedule
from ..model.states import State
from ..model.task import RunRequest, Task, TaskDefinition, TaskRunRequest
from ..model.validation import validate
from ..store.runs import Submission
from .services import Services

__all__ = ["Order", "cancel_run", "create_run", "get_task", "order_of", "repeat_run", "run_task", "save_task"]


@dataclass(frozen=True, slots=True)
class Order:
    """A run that is wanted: what to execute and when, who asks how, and what to look at first."""

    spec: RunSpec
    by: str
    due_ms: int = 0
    overlap: str | None = None
    on_conflict: str = "reject"
    idempotency: tuple[str, str] | None = None

    def submission(self, queue_limit: int = 0) -> Submission:
        """The order as the store takes it, under a fresh id."""
        run_id = new_run_id()
        return Submission(run_id, self.spec, self.due_ms, self.idempotency, self.on_conflict, self.overlap, queue_limit)


async def create_run(
    services: Services, body: object, *, by: str, trigger: str, idempotency: tuple[str, str] | None = None
) -> tuple[Run, bool]:
    """Create a run from the body of `POST /runs`; and whether it is new, not the one of an earlier request.

    Raises: InvalidInput with every fault, Conflict when a unique key is taken, StoreUnavailable.
    """
    order = await order_of(services, body, by=by, trigger=trigger)
    return await _submit(services, replace(order, idempotency=idempotency))


async def order_of(services: Services, body: object, *, by: str, trigger: str) -> Order:
    """Check the body of `POST /runs`. Raises InvalidInput with every fault, StoreUnavailable."""
    wanted = validate(RunRequest, body)
    if wanted.task is not None:
        return await _order_of_task(services, wanted, by, trigger)
    if wanted.type is None:
        raise InvalidInput([Fault("/type", "'type' is required, or 'task' to run a saved task")])
    check_sizes(wanted.params, wanted.env, wanted.place)
    await services.types.check(wanted.type, wanted.params)
    unique = wanted.unique.word(wanted.type, wanted.params) if wanted.unique else None
    spec = RunSpec(type=wanted.type, params=wanted.params, trigger=trigger, unique=unique, **wanted.run_options)
    conflict = wanted.unique.on_conflict if wanted.unique else "reject"
    return Order(spec, by, await _due_ms(services, wanted.at, wanted.delay), on_conflict=conflict)


async def _order_of_task(services: Services, wanted: RunRequest, by: str, trigger: str) -> Order:
    try:
        task = await get_task(services, wanted.task or "")
    except NotFound as error:
        raise InvalidInput(str(error), "/task") from None
    if wanted.type not in (None, task.definition.type):
        raise InvalidInput(f"task '{task.name}' has the type '{task.definition.type}'", "/type")
    given = {name: value for name, value in wanted.run_options.items() if _option(name) in wanted.model_fields_set}
    order = await _order(services, task, wanted.params, given, by, trigger)
    return replace(order, due_ms=await _due_ms(services, wanted.at, wanted.delay))


def _option(name: str) -> str:
    return name.removesuffix("_s")


async def run_task(
    services: Services, name: str, body: object, *, by: str, trigger: str, idempotency: tuple[str, str] | None = None
) -> tuple[Run, bool]:
    """Run a saved task now, with what `body` changes; see create_run. Raises NotFound as well."""
    wanted = validate(TaskRunRequest, body)
    task = await get_task(services, name)
    order = await _order(services, task, wanted.params, _changes(wanted, task), by, trigger)
    due_ms = await _due_ms(services, wanted.at, wanted.delay)
    return await _submit(services, replace(order, idempotency=idempotency, due_ms=due_ms))


def _changes(wanted: TaskRunRequest, task: Task) -> dict[str, Any]:
    given = {"queue": wanted.queue, "priority": wanted.priority, "place": wanted.place, "timeout_s": wanted.timeout}
    changes: dict[str, Any] = {option: value for option, value in given.items() if value is not None}
    if wanted.retry is not None:
        changes["retry"] = wanted.retry.model_dump(exclude_defaults=True)
    if wanted.env:
        changes["env"] = {**task.definition.env, **wanted.env}
    return changes


async def _order(
    services: Services, task: Task, params: Mapping[str, Any], options: Mapping[str, Any], by: str, trigger: str
) -> Order:
    spec = task.spec(trigger=trigger, params=params, options=options)
    check_sizes(spec.params, spec.env, spec.place)
    await services.types.check(spec.type, spec.params)
    unique = task.definition.unique
    conflict = unique.on_conflict if unique else "reject"
    return Order(spec, by, overlap=task.overlap_for(trigger), on_conflict=conflict)


async def repeat_run(services: Services, run_id: str, params: Mapping[str, Any] | None, *, by: str) -> Run:
    """A new run with everything of another but its state, with `params` in place of its own where given.

    Raises: NotFound, InvalidInput, StoreUnavailable.
    """
    old = await services.store.runs.get(run_id)
    chosen = old.spec.params if params is None else dict(params)
    check_sizes(chosen, old.spec.env, old.spec.place)
    await services.types.check(old.spec.type, chosen)
    spec = old.spec.repeated(run_id, chosen)
    return (await _submit(services, Order(spec, by)))[0]


async def _due_ms(services: Services, at_ms: int | None, delay_s: float | None) -> int:
    if at_ms is not None and delay_s is not None:
        raise InvalidInput("give 'at' or 'delay', not both", "/delay")
    if delay_s:
        return await services.store.runs.now() + round(delay_s * 1000)
    return at_ms or 0


async def _submit(services: Services, order: Order) -> tuple[Run, bool]:
    submission = order.submission(services.queue_limit)
    receipt = (await services.store.runs.submit([submission], by=order.by))[0]
    if receipt.outcome == "mismatch":
        raise InvalidInput("this Idempotency-Key came with another body before: use a new key for a new run")
    if receipt.outcome == "taken":
        raise Conflict(f"run {receipt.run_id} is the same by its unique key, and not over yet")
    if receipt.outcome == "full":
        raise QueueFull
    if receipt.outcome == "created":
        return receipt.run(submission, order.by), True
    try:
        return await services.store.runs.get(receipt.run_id), receipt.outcome != "replayed"
    except NotFound:
        raise Conflict(f"run {receipt.run_id}, which this request made before, is over and not kept any more") from None


async def save_task(services: Services, body: object, *, must_be_new: bool, revision: int | None = None) -> Task:
    """Create or replace a task. Raises InvalidInput with every fault, Conflict, StoreUnavailable."""
    definition = validate(TaskDefinition, body)
    check_sizes(definition.params, definition.env, definition.place)
    await services.types.check(definition.type, definition.params)
    for number, schedule in enumerate(definition.schedules):
        await _check_schedule_params(services, definition, number, schedule)
    await _check_chains(services, definition)
    now_ms = await services.store.runs.now()
    schedules = [schedule.settled(services.timezone, now_ms) for schedule in definition.schedules]
    faults = [
        Fault(f"/schedules/{number}", "is never due again: it lies in the past, or more than ten years away")
        for number, schedule in enumerate(schedules)
        if schedule.is_timed and schedule.next(now_ms) is None
    ]
    if faults and must_be_new:
        raise InvalidInput(faults)
    settled = definition.model_copy(update={"schedules": schedules})
    return await services.store.tasks.save(settled, now_ms, revision=0 if must_be_new else revision)


async def _check_chains(services: Services, definition: TaskDefinition) -> None:
    """Whether the tasks that its schedules wait for are there, and wait for it in no way themselves."""
    awaited: dict[str, list[str]] = {definition.name: definition.upstreams}
    unknown = set(definition.upstreams)
    while unknown:
        found = await services.store.tasks.get_many(sorted(unknown))
        if awaited.keys() == {definition.name} and len(found) < len(unknown):
            raise await _unknown_upstreams(services, definition, {task.name for task in found})
        awaited |= {task.name: task.definition.upstreams for task in found}
        unknown = {name for task in found for name in task.definition.upstreams} - awaited.keys()
    if circle := circle_through(definition.name, awaited):
        way = " waits for ".join(circle)
        raise InvalidInput(f"{way}: a circle would keep itself going for ever", "/schedules")


async def _unknown_upstreams(services: Services, definition: TaskDefinition, known: set[str]) -> InvalidInput:
    names = await services.store.tasks.names()
    return InvalidInput(
        Fault(f"/schedules/{number}/after/{place}/task", f"there is no task '{one.task}'{nearest(one.task, names)}")
        for number, schedule in enumerate(definition.schedules)
        if isinstance(schedule.after, list)
        for place, one in enumerate(schedule.after)
        if one.task not in known
    )


async def _check_schedule_params(
    services: Services, definition: TaskDefinition, number: int, schedule: Schedule
) -> None:
    """Whether it can be fired; later nobody would be there to be told."""
    try:
        spec = Task(definition=definition, revision=0, created_ms=0, updated_ms=0).spec(
            trigger="schedule", params=schedule.params
        )
        if schedule.params:
            check_sizes(spec.params, spec.env, spec.place)
            await services.types.check(definition.type, spec.params)
    except InvalidInput as error:
        raise error.under(f"/schedules/{number}") from None


async def get_task(services: Services, name: str) -> Task:
    """The task of that name. Raises NotFound that suggests the nearest one."""
    try:
        return await services.store.tasks.get(name)
    except NotFound as error:
        hint = nearest(name, await services.store.tasks.names())
        raise NotFound(f"there is no task '{name}'{hint}" if hint else str(error)) from None


async def cancel_run(services: Services, run_id: str, *, by: str, force: bool = False) -> State:
    """Cancel a run, with `force` without a grace; the state then. Raises NotFound, Conflict, StoreUnavailable."""
    return await services.store.runs.cancel(run_id, by=by, force=force)


async def delete_run(services: Services, run_id: str) -> None:
    """Forget a final run with its log and its children. Raises NotFound, Conflict, StoreUnavailable.

    Final is final, so what is read first still holds when it is removed; another may have removed it meanwhile.
    """
    run = await services.store.runs.get(run_id)
    if not run.is_final:
        raise Conflict(f"run {run_id} is {run.state}: only runs that are over can be deleted; cancel it first")
    if not await services.store.retention.forget_now(run_id):
        raise Conflict(f"run {run_id} is kept with run {run.spec.parent}, of which it is a part: delete that one")
