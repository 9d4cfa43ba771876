"""`/live/…`: the streams of the pages. Each sends the partials that its page includes, for htmx to swap in."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial

from quart import Blueprint, Response, request
from quart.typing import ResponseReturnValue

from ...model.events import Event, RunEvent, TaskEvent, WorkerEvent
from ...model.run import Run
from .. import actions
from ..auth import require_page
from ..events import ChangeEvents, Filter
from ..logs import Position
from ..services import Services, services
from ..sse import respond
from .children import children_of, placed_parts
from .overview import overview
from .rendering import Renderer, renderer
from .runs import LIMIT, states_asked
from .streams import RegionStream, RowStream, RunStream
from .tasks import task_view
from .workers import worker_list, worker_view

__all__ = ["blueprint"]

# Workers say how they stand so often; nothing announces it.
_HEARTBEAT_S = 5.0
# A due instant that passes without a run is announced by nobody either.
_PASSING_S = 15.0

blueprint = Blueprint("live", __name__, url_prefix="/live")


@blueprint.before_request
async def _require_session() -> ResponseReturnValue | None:
    """As for pages, but a script gets a status, not the sign-in form."""
    return None if await require_page() is None else ("", 401)


@blueprint.get("/overview")
async def overview_stream() -> ResponseReturnValue:
    """The overview, afresh when any run or task has changed, at most once a second."""
    here, render = services(), renderer()

    async def region() -> str:
        return await render.into("#overview", "_partials/overview.html", "innerMorph", **await overview(here))

    return await _region(region, lambda event: isinstance(event, (RunEvent, TaskEvent)), pause_s=1.0)


@blueprint.get("/tasks/<name>")
async def task_stream(name: str) -> ResponseReturnValue:
    """What the page of a task shows of its schedules and runs, afresh when they have changed."""
    here, render = services(), renderer()
    await actions.get_task(here, name)
    region, concerns = partial(_task_region, here, render, name), partial(_is_about_task, name)
    return await _region(region, concerns, pause_s=0.5, every_s=_PASSING_S)


async def _task_region(services: Services, render: Renderer, name: str) -> str:
    task = await actions.get_task(services, name)
    return await render.into("#task", "_partials/task.html", "innerMorph", **await task_view(services, task))


def _is_about_task(name: str, event: Event) -> bool:
    return (isinstance(event, RunEvent) and event.task == name) or (isinstance(event, TaskEvent) and event.name == name)


@blueprint.get("/workers")
async def workers_stream() -> ResponseReturnValue:
    """The list of workers, afresh when one has come, gone or is to drain, and with their heartbeats."""
    store, render, cursor = services().store, renderer(), request.args.get("cursor") or None

    async def region() -> str:
        return await render.into("#workers", "_partials/workers.html", "innerMorph", **await worker_list(store, cursor))

    return await _region(region, lambda event: isinstance(event, WorkerEvent), pause_s=1.0, every_s=_HEARTBEAT_S)


@blueprint.get("/workers/<worker_id>")
async def worker_stream(worker_id: str) -> ResponseReturnValue:
    """What the page of a worker shows, afresh when its runs or itself have changed."""
    store, render = services().store, renderer()
    known = (await store.workers.get(worker_id)).node.id

    async def region() -> str:
        return await render.into("#worker", "_partials/worker.html", "innerMorph", **await worker_view(store, known))

    def concerns(event: Event) -> bool:
        if isinstance(event, RunEvent):
            return event.worker == known
        return isinstance(event, WorkerEvent) and event.id == known

    return await _region(region, concerns, pause_s=1.0, every_s=_HEARTBEAT_S)


async def _region(
    region: Callable[[], Awaitable[str]], wanted: Filter, *, pause_s: float, every_s: float = math.inf
) -> Response:
    source = RegionStream(ChangeEvents(services().store.events, wanted), region, pause_s, every_s)
    return await respond(source, services().drain)


@blueprint.get("/runs")
async def rows_stream() -> ResponseReturnValue:
    """The rows of a list of runs as they change, and how many runs are new since it was loaded."""
    task, newest = request.args.get("task") or None, request.args.get("newest", "")
    states, cursor = states_asked(), request.args.get("cursor") or None
    parent, shown = request.args.get("parent") or None, set[str]()
    changes = ChangeEvents(
        services().store.events, lambda event: _may_be_listed(event, task, shown if parent else None)
    )
    await changes.resume(request.headers.get("Last-Event-ID") or request.args.get("after"))
    page = await services().store.runs.page(states=states, task=task, parent=parent, limit=LIMIT, cursor=cursor)
    shown.update(run.id for run in page.runs if run.id <= newest)
    fresh = {run.id for run in page.runs} - shown
    source = RowStream(services().store, changes, renderer(), shown, fresh, states)
    return await respond(source, services().drain)


def _may_be_listed(event: Event, task: str | None, among: set[str] | None) -> bool:
    """What a placed run became is all there from the start: of children, only those that are shown."""
    return isinstance(event, RunEvent) and task in (None, event.task) and (among is None or event.id in among)


@blueprint.get("/runs/<run_id>")
async def run_stream(run_id: str) -> ResponseReturnValue:
    """One run: its state and its log's lines as they come, then `eof`."""
    run = await services().store.runs.get(run_id)
    if run.spec.place == "all":
        return await _placed_stream(run)
    source = RunStream(services().store, renderer(), run, _position(run), with_state="log" not in request.args)
    return await respond(await source.open(), services().drain)


async def _placed_stream(run: Run) -> Response:
    """A run on every worker: its state and its children, afresh when one of them has changed."""
    store, render, family = services().store, renderer(), {run.id}

    async def region() -> str:
        now = await store.runs.get(run.id)
        why, children = await store.why(now), await children_of(store, now)
        family.update(child.id for child in children["children"])
        return await placed_parts(render, run=now, why=why, **children)

    return await _region(region, lambda event: isinstance(event, RunEvent) and event.id in family, pause_s=0.5)


def _position(run: Run) -> Position:
    """After the last line that the page has, `attempt-line`."""
    attempt, _, line = (request.headers.get("Last-Event-ID") or request.args.get("after", "")).partition("-")
    if attempt.isdigit() and line.isdigit() and 1 <= int(attempt) <= max(run.attempt, 1):
        return Position(int(attempt), int(line))
    return Position(max(run.attempt, 1))
