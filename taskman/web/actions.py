"""What both the API and the pages do: the one way to create runs and save tasks, with the same checks for both."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..errors import Fault, InvalidInput, NotFound, nearest
from ..model.ids import new_run_id
from ..model.run import Run, RunSpec
from ..model.states import State
from ..model.task import RunRequest, Task, TaskDefinition, TaskRunRequest
from ..model.validation import validate
from ..store.runs import Submission
from .services import Services

__all__ = ["cancel_run", "create_run", "get_task", "run_task", "save_task"]

PARAMS_LIMIT = 1024 * 1024


async def create_run(services: Services, body: object, *, by: str, trigger: str) -> Run:
    """Create a run from the body of `POST /runs`. Raises InvalidInput with every fault, StoreUnavailable."""
    wanted = validate(RunRequest, body)
    spec = await _spec_of(services, wanted, trigger)
    return await _submit(services, spec, wanted.at, wanted.delay, by)


async def _spec_of(services: Services, wanted: RunRequest, trigger: str) -> RunSpec:
    if wanted.task is None:
        if wanted.type is None:
            raise InvalidInput([Fault("/type", "'type' is required, or 'task' to run a saved task")])
        _check_params(services, wanted.type, wanted.params)
        return RunSpec(type=wanted.type, params=wanted.params, trigger=trigger, **wanted.run_options())
    try:
        task = await get_task(services, wanted.task)
    except NotFound as error:
        raise InvalidInput(str(error), "/task") from None
    if wanted.type not in (None, task.definition.type):
        raise InvalidInput(f"task '{task.name}' has the type '{task.definition.type}'", "/type")
    given = {name: value for name, value in wanted.run_options().items() if _option(name) in wanted.model_fields_set}
    return _changed(services, task, wanted.params, given, trigger)


def _option(name: str) -> str:
    return name.removesuffix("_s")


async def run_task(services: Services, name: str, body: object, *, by: str, trigger: str) -> Run:
    """Run a saved task now, with what `body` changes. Raises NotFound, InvalidInput, StoreUnavailable."""
    wanted = validate(TaskRunRequest, body)
    task = await get_task(services, name)
    given = {"queue": wanted.queue, "priority": wanted.priority, "timeout_s": wanted.timeout}
    changes: dict[str, Any] = {option: value for option, value in given.items() if value is not None}
    if wanted.env:
        changes["env"] = {**task.definition.env, **wanted.env}
    spec = _changed(services, task, wanted.params, changes, trigger)
    return await _submit(services, spec, wanted.at, wanted.delay, by)


def _changed(
    services: Services, task: Task, params: Mapping[str, Any], options: Mapping[str, Any], trigger: str
) -> RunSpec:
    definition = task.definition
    merged = {**definition.params, **params}
    _check_params(services, definition.type, merged)
    return RunSpec(
        type=definition.type,
        params=merged,
        task=definition.name,
        trigger=trigger,
        **{**definition.run_options(), **options},
    )


def _check_params(services: Services, type_name: str, params: Mapping[str, Any]) -> None:
    services.registry.check_params(type_name, params)


async def _submit(services: Services, spec: RunSpec, at_ms: int | None, delay_s: float | None, by: str) -> Run:
    if at_ms is not None and delay_s is not None:
        raise InvalidInput("give 'at' or 'delay', not both", "/delay")
    due_ms = at_ms or 0
    if delay_s:
        due_ms = await services.store.runs.now() + round(delay_s * 1000)
    created = await services.store.runs.submit([Submission(new_run_id(), spec, due_ms)], by=by)
    return created[0]


async def save_task(services: Services, body: object, *, must_be_new: bool, revision: int | None = None) -> Task:
    """Create or replace a task. Raises InvalidInput with every fault, Conflict, StoreUnavailable."""
    definition = validate(TaskDefinition, body)
    _check_params(services, definition.type, definition.params)
    now_ms = await services.store.runs.now()
    schedules = [schedule.settled(services.timezone, now_ms) for schedule in definition.schedules]
    faults = [
        Fault(f"/schedules/{number}", "is never due again: it lies in the past")
        for number, schedule in enumerate(schedules)
        if schedule.next(now_ms) is None
    ]
    if faults and must_be_new:
        raise InvalidInput(faults)
    settled = definition.model_copy(update={"schedules": schedules})
    return await services.store.tasks.save(settled, now_ms, revision=0 if must_be_new else revision)


async def get_task(services: Services, name: str) -> Task:
    """The task of that name. Raises NotFound that suggests the nearest one."""
    try:
        return await services.store.tasks.get(name)
    except NotFound as error:
        hint = nearest(name, await services.store.tasks.names())
        raise NotFound(f"there is no task '{name}'{hint}" if hint else str(error)) from None


async def cancel_run(services: Services, run_id: str, *, by: str) -> State:
    """Cancel a run; the state it is in then. Raises NotFound, Conflict, StoreUnavailable."""
    return await services.store.runs.cancel(run_id, by=by)


def today_ms() -> int:
    """This process's wall clock, epoch ms; for display only."""
    return time.time_ns() // 1_000_000
