"""`/tasks`: the list, one task with its schedules and ledger, the form to create and edit, run now, delete."""

from __future__ import annotations

from typing import Any

from quart import Blueprint, render_template, request
from quart.typing import ResponseReturnValue

from ...errors import Conflict, InvalidInput
from ...model.instants import format_instant
from ...model.run import Run
from ...model.schedule import Schedule
from ...model.task import Task, TaskDefinition
from ...store.tasks import LedgerEntry
from .. import actions
from ..auth import identity, require_page
from ..forms import Field
from ..services import Services, services
from ..timetable import surroundings
from .notices import go
from .rendering import renderer
from .run_form import first_type
from .task_form import TaskForm
from .wording import now_ms, outcome

__all__ = ["blueprint", "task_rows", "task_view"]

LIMIT = 50
_FIRES = 5
_LEDGER = 60
_RUNS = 30

blueprint = Blueprint("tasks", __name__, url_prefix="/tasks")
blueprint.before_request(require_page)


@blueprint.get("")
async def index() -> ResponseReturnValue:
    """Tasks by name, each with its next fire time and its last run."""
    cursor = request.args.get("cursor")
    tasks, following = await services().store.tasks.page(LIMIT, cursor)
    rows = await task_rows(services(), tasks)
    return await render_template("tasks/index.html", rows=rows, following=following, cursor=cursor)


async def task_rows(services: Services, tasks: list[Task]) -> list[dict[str, Any]]:
    """Each task with its last run, if there is one still."""
    last_ids = await services.store.tasks.last_run_ids([task.name for task in tasks])
    runs = {run.id: run for run in await services.store.runs.get_many([one for one in last_ids if one])}
    return [{"task": task, "last": runs.get(last or "")} for task, last in zip(tasks, last_ids, strict=True)]


@blueprint.get("/new")
async def new() -> ResponseReturnValue:
    """The form of a new task; `?type=` chooses the type."""
    types = services().types
    wanted = await types.get(request.args.get("type") or first_type(await types.all()))
    return await _show_form(TaskForm(wanted, services().timezone))


async def _show_form(form: TaskForm, task: Task | None = None) -> str:
    types = [one.name for one in await services().types.all()]
    values = {"form": form, "types": types, "type": form.task_type, "task": task, "now": now_ms()}
    return await render_template("tasks/edit.html" if task else "tasks/new.html", **values)


async def _form_sent(type_name: str) -> tuple[TaskForm, bool]:
    """The form as it was sent, and whether it only asks for one more schedule."""
    typed = await request.form
    count = sum(name.startswith("schedules.") and name.endswith(".timezone") for name in typed)
    more = "more" in typed
    form = TaskForm(await services().types.get(type_name), services().timezone, count + more)
    fresh = {one.name: one.value for one in form.slots[-1].fields.values()} if more else {}
    form.take({**typed.to_dict(), **fresh})
    if more:
        form.slots[-1].kind.value = "cron"
        form.slots[-1].times["cron"].focus = True
    return form, more


@blueprint.post("/new")
async def create() -> ResponseReturnValue:
    """Create the task and go to the list; or show the form again, with its faults."""
    form, more = await _form_sent((await request.form).get("type", ""))
    if more:
        return await _show_form(form)
    try:
        task = await _save(form, must_be_new=True)
    except InvalidInput as error:
        form.blame(error.faults)
        return await _show_form(form), 422
    except Conflict as error:
        _blame_name(form, str(error))
        return await _show_form(form), 409
    return go("/tasks", f"Task {task.name} is created.")


async def _save(form: TaskForm, *, must_be_new: bool, revision: int | None = None, edited: Task | None = None) -> Task:
    body = form.body(TaskDefinition, form.task_type.check)
    if edited is not None:
        body = form.over(edited.definition.to_json(), body)
    try:
        return await actions.save_task(services(), body, must_be_new=must_be_new, revision=revision)
    except InvalidInput as error:
        raise InvalidInput(form.located(fault) for fault in error.faults) from None


def _blame_name(form: TaskForm, text: str) -> None:
    name: Field = form.fields["name"]
    name.faults.append(text[:1].upper() + text[1:])
    name.focus = True


@blueprint.post("/preview")
async def preview() -> ResponseReturnValue:
    """The next fire times of the schedules as they are typed, beside each."""
    form, _ = await _form_sent((await request.form).get("type", ""))
    render, now, around = (
        renderer(),
        now_ms(),
        await surroundings(services(), form.fields["name"].value.strip() or None),
    )
    parts = [
        await render.into(f"#preview-{slot.number}", "_partials/preview.html", "innerHTML", look=slot.look(now, around))
        for slot in form.slots
    ]
    return "".join(parts)


@blueprint.get("/<name>")
async def show(name: str) -> ResponseReturnValue:
    """One task: its schedules, what came of each due instant, its last runs."""
    task = await actions.get_task(services(), name)
    return await render_template("tasks/show.html", **await task_view(services(), task))


async def task_view(services: Services, task: Task) -> dict[str, Any]:
    """What the page of a task shows now. Raises StoreUnavailable."""
    store = services.store
    page = await store.runs.page(task=task.name, limit=_RUNS)
    ledger = await store.tasks.ledger(task.name, _LEDGER)
    fired = await store.runs.get_many([entry.run_id for entry in ledger if entry.run_id])
    schedules = [_schedule_view(task, number) for number in range(len(task.definition.schedules))]
    runs = {run.id: run for run in fired}
    entries = [_ledger_view(entry, runs.get(entry.run_id or "")) for entry in reversed(ledger)]
    return {
        "task": task,
        "schedules": schedules,
        "is_timed": any(one.is_timed for one in task.definition.schedules),
        "ledger": entries,
        "runs": page.runs,
        "more": page.next_cursor,
    }


def _schedule_view(task: Task, number: int) -> dict[str, Any]:
    """A schedule with its next due instants; where the clock alone does not say them, with the one that is known.

    `skippable` is the first of them where it can be skipped: the instant that a press of the button means.
    """
    schedule = task.definition.schedules[number]
    next_ms = task.cursors.get(number) if task.definition.enabled else None
    view: dict[str, Any] = {"schedule": schedule, "number": number, "fires": [] if next_ms is None else [next_ms]}
    if not task.definition.enabled:
        return view | {"none": "paused"}
    if not schedule.is_timed:
        return view | {"none": "not due yet: it waits for that"}
    if next_ms is None:
        return view | {"none": "never due again"}
    return view | {"fires": _fires(schedule, next_ms), "skippable": format_instant(next_ms)}


def _fires(schedule: Schedule, due_ms: int) -> list[int]:
    """The next instants at which it fires, closed ones left out; the first is the one that can be skipped."""
    fires = [due_ms]
    while len(fires) < _FIRES and (following := schedule.next(fires[-1])) is not None:
        fires.append(schedule.next_open(following))
    return fires


def _ledger_view(entry: LedgerEntry, run: Run | None) -> dict[str, Any]:
    """A due instant, or several in a row: with the state of its run, while there is one."""
    look = run.state if run else entry.outcome
    count = f"{entry.count:,}" if entry.count > 1 else ""
    return {"run": run, "look": look, "text": outcome(entry, run), "count": count}


@blueprint.post("/<name>/runs")
async def run_now(name: str) -> ResponseReturnValue:
    """Run the task now, and show the run."""
    run, _ = await actions.run_task(services(), name, {}, by=identity().by, trigger="ui")
    return go(f"/runs/{run.id}")


@blueprint.get("/<name>/edit")
async def edit(name: str) -> ResponseReturnValue:
    """The form of a task that exists."""
    task = await actions.get_task(services(), name)
    form = await _form_of(task)
    return await _show_form(form, task)


async def _form_of(task: Task) -> TaskForm:
    task_type = await services().types.get(task.definition.type)
    form = TaskForm(task_type, services().timezone, len(task.definition.schedules))
    form.show(task.to_json())
    return form


@blueprint.post("/<name>/edit")
async def save(name: str) -> ResponseReturnValue:
    """Save the task and go to the list; or show the form again, with its faults."""
    task = await actions.get_task(services(), name)
    form, more = await _form_sent(task.definition.type)
    form.fields["name"].value = name
    if more:
        return await _show_form(form, task)
    sent = (await request.form).get("revision", "")
    try:
        await _save(form, must_be_new=False, revision=int(sent) if sent.isdigit() else 0, edited=task)
    except InvalidInput as error:
        form.blame(error.faults)
        return await _show_form(form, task), 422
    except Conflict:
        form.faults.append("Somebody saved this task in the meantime. To overwrite their change, save again.")
        return await _show_form(form, task), 409
    return go("/tasks", f"Task {name} is saved.")


@blueprint.get("/<name>/delete")
async def confirm(name: str) -> ResponseReturnValue:
    """Ask whether the task shall go."""
    return await render_template("tasks/delete.html", task=await actions.get_task(services(), name))


@blueprint.post("/<name>/delete")
async def delete(name: str) -> ResponseReturnValue:
    """Delete the task with its schedules; its runs stay."""
    await services().store.tasks.delete(name)
    return go("/tasks", f"Task {name} is deleted. Its runs are still in the list of runs.")
