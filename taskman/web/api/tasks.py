"""`/api/v1/tasks`: create, list, look at, replace, delete, run now; its schedules and their ledger."""

from __future__ import annotations

from quart import Blueprint, request, url_for
from quart.typing import ResponseReturnValue

from ...errors import InvalidInput
from ...model.instants import format_instant
from ...model.task import Task
from .. import actions, interventions
from ..auth import identity
from ..services import services
from ..timetable import next_of
from .bodies import check_query, idempotency_of, json_body, limit_of, number_of, trigger_of
from .runs import created

__all__ = ["blueprint"]

blueprint = Blueprint("tasks_api", __name__, url_prefix="/tasks")


@blueprint.post("")
async def create() -> ResponseReturnValue:
    """Create a task: 201 with its address; 409 when the name is taken."""
    task = await actions.save_task(services(), await json_body(), must_be_new=True)
    return _shown(task, 201)


def _shown(task: Task, status: int = 200) -> ResponseReturnValue:
    headers = {"ETag": f'"{task.revision}"'}
    if status == 201:
        headers["Location"] = url_for("api.tasks_api.show", name=task.name)
    return task.to_json(), status, headers


@blueprint.get("")
async def index() -> ResponseReturnValue:
    """Tasks by name."""
    check_query("limit", "cursor")
    tasks, cursor = await services().store.tasks.page(limit_of(), request.args.get("cursor"))
    return {"items": [task.to_json() for task in tasks], "next_cursor": cursor}


@blueprint.get("/<name>")
async def show(name: str) -> ResponseReturnValue:
    """One task."""
    check_query()
    return _shown(await actions.get_task(services(), name))


@blueprint.get("/<name>/next")
async def show_next(name: str) -> ResponseReturnValue:
    """The next due instants over all its schedules; none while it is paused."""
    check_query("n")
    count = number_of("n", 10, 1, 100)
    found = await next_of(services(), await actions.get_task(services(), name), count)
    return {"items": [{**one.to_json(), "schedule": number} for number, one in found]}


@blueprint.get("/<name>/ledger")
async def show_ledger(name: str) -> ResponseReturnValue:
    """What became of each due instant, newest first."""
    check_query("limit", "cursor")
    limit, start = limit_of(), number_of("cursor", 0, 0, 1_000_000)
    await actions.get_task(services(), name)
    found = await services().store.tasks.ledger(name, limit + 1, start)
    cursor = str(start + limit) if len(found) > limit else None
    return {"items": [interventions.ledger_json(entry) for entry in found[:limit]], "next_cursor": cursor}


@blueprint.post("/<name>/pause")
async def pause(name: str) -> ResponseReturnValue:
    """Switch its schedules off; what runs goes on."""
    return _shown(await interventions.set_paused(services(), name, paused=True))


@blueprint.post("/<name>/resume")
async def resume(name: str) -> ResponseReturnValue:
    """Switch its schedules on; they owe nothing of the meantime."""
    return _shown(await interventions.set_paused(services(), name, paused=False))


@blueprint.post("/<name>/skip")
async def skip(name: str) -> ResponseReturnValue:
    """Let the next due instant pass; 409 when nothing is due."""
    due, task = await interventions.skip_next(services(), name, await json_body(optional=True))
    next_at = format_instant(task.next_ms)
    return {"skipped": format_instant(due.due_ms), "schedule": due.schedule, "next_at": next_at}


@blueprint.post("/<name>/backfill")
async def backfill(name: str) -> ResponseReturnValue:
    """Run the due instants of a stretch of the past that have had no run, or with `dry_run` only count them."""
    body, by, trigger = await json_body(), identity().by, trigger_of()
    return (await interventions.backfill(services(), name, body, by=by, trigger=trigger)).to_json()


@blueprint.put("/<name>")
async def replace(name: str) -> ResponseReturnValue:
    """Create or replace a task; its schedules owe nothing from before."""
    body = await json_body()
    if isinstance(body, dict) and body.setdefault("name", name) != name:
        raise InvalidInput(f"the address names '{name}': leave 'name' out, or write the same", "/name")
    task = await actions.save_task(services(), body, must_be_new=False)
    return _shown(task, 201 if task.is_new else 200)


@blueprint.delete("/<name>")
async def delete(name: str) -> ResponseReturnValue:
    """Delete a task and its schedules; its runs stay."""
    await actions.get_task(services(), name)
    await services().store.tasks.delete(name)
    return "", 204


@blueprint.post("/<name>/runs")
async def run_now(name: str) -> ResponseReturnValue:
    """Run a task now, with what the body changes."""
    body, idempotency = await json_body(optional=True), await idempotency_of()
    by, trigger = identity().by, trigger_of()
    return created(*await actions.run_task(services(), name, body, by=by, trigger=trigger, idempotency=idempotency))
