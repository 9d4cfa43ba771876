"""What people do by hand to the schedules of a task, on its page: pause, resume, skip the next instant, backfill."""

from __future__ import annotations

from typing import Any

from quart import Blueprint, render_template, request
from quart.typing import ResponseReturnValue

from ...errors import Conflict, InvalidInput
from ...model.schedule import Schedule
from ...model.task import Task
from .. import actions, interventions
from ..auth import identity, require_page
from ..interventions import Backfill
from ..services import services
from .backfill_form import BackfillForm
from .notices import go
from .wording import local, now_ms

__all__ = ["blueprint"]

blueprint = Blueprint("interventions", __name__, url_prefix="/tasks")
blueprint.before_request(require_page)


@blueprint.post("/<name>/pause")
async def pause(name: str) -> ResponseReturnValue:
    """Switch its schedules off; its page says so as long as they are."""
    return await _set_paused(name, paused=True)


@blueprint.post("/<name>/resume")
async def resume(name: str) -> ResponseReturnValue:
    """Switch its schedules on, and say when it is due next."""
    return await _set_paused(name, paused=False)


async def _set_paused(name: str, *, paused: bool) -> ResponseReturnValue:
    try:
        await interventions.set_paused(services(), name, paused=paused)
    except Conflict as error:
        return go(f"/tasks/{name}", str(error), refused=True)
    return go(f"/tasks/{name}", "" if paused else _goes_on(await actions.get_task(services(), name)))


def _goes_on(task: Task) -> str:
    if not task.cursors:
        return "It goes on."
    next_ms, number = min((due_ms, number) for number, due_ms in task.cursors.items())
    return f"It goes on. It is due next {_when(next_ms, task.definition.schedules[number])}."


def _when(at_ms: int, schedule: Schedule) -> str:
    """A due instant on the clock of its schedule, with the name of that."""
    return f"{local(at_ms, schedule.timezone)} {schedule.timezone or 'UTC'}"


@blueprint.post("/<name>/skip")
async def skip(name: str) -> ResponseReturnValue:
    """Let the due instant that the page showed pass, and say what comes after it."""
    sent = await request.form
    body: dict[str, Any] = {name: sent[name] for name in ("schedule", "at") if name in sent}
    try:
        due, task = await interventions.skip_next(services(), name, body)
    except Conflict as error:
        return go(f"/tasks/{name}", str(error), refused=True)
    schedule, next_ms = task.definition.schedules[due.schedule], task.cursors.get(due.schedule)
    following = "It is not due again" if next_ms is None else f"The next one is {local(next_ms, schedule.timezone)}"
    return go(f"/tasks/{name}", f"Skipped {_when(due.due_ms, schedule)}. {following}.")


@blueprint.get("/<name>/backfill")
async def show_backfill(name: str) -> ResponseReturnValue:
    """The form of a backfill."""
    task = await actions.get_task(services(), name)
    return await _show(task, BackfillForm(task, services().timezone, now_ms()))


async def _show(task: Task, form: BackfillForm, found: Backfill | None = None) -> str:
    return await render_template("tasks/backfill.html", task=task, form=form, found=found)


@blueprint.post("/<name>/backfill")
async def backfill(name: str) -> ResponseReturnValue:
    """Count what would be run; once that is confirmed, run it and go to the task. Or show the faults."""
    sent = await request.form
    task = await actions.get_task(services(), name)
    form = BackfillForm(task, services().timezone, now_ms())
    form.take(sent.to_dict())
    counted = sent.get("revision")  # of the task whose count was confirmed
    is_confirmed = counted == str(task.revision)
    try:
        body = {**form.request(), "dry_run": not is_confirmed}
        found = await interventions.backfill(services(), name, body, by=identity().by, trigger="ui")
    except InvalidInput as error:
        form.blame(error.faults)
        return await _show(task, form), 422
    if is_confirmed:
        return go(f"/tasks/{name}", _made(found))
    if counted is not None:
        form.faults.append("The task was changed in the meantime: look at the count again.")
    return await _show(task, form, found), 409 if form.faults else 200


def _made(found: Backfill) -> str:
    """`12 runs made. 3 had run already.`"""
    count = len(found.created)
    made = "1 run made." if count == 1 else f"{count:,} runs made."
    return f"{made} {found.past:,} had run already." if found.past else made
