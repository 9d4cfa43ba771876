"""`/runs`: the list, the form of a new run, one run, its log; cancel and run again."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from quart import Blueprint, render_template, request
from quart.typing import ResponseReturnValue

from ...errors import Conflict, InvalidInput, nearest
from ...model.run import Run
from ...model.states import State
from ...model.task import RunRequest
from .. import actions
from ..auth import identity, require_page
from ..services import services
from .children import children_of
from .facets import FACETS, runs_path
from .logview import log_view
from .notices import go
from .run_form import RunForm, again, first_type
from .wording import title_of

__all__ = ["LIMIT", "blueprint", "states_asked"]

LIMIT = 50
_PANEL_LINES = 500
_PAGE_LINES = 2000
_KNOWN_TASKS = 500

blueprint = Blueprint("runs", __name__, url_prefix="/runs")
blueprint.before_request(require_page)


@blueprint.get("")
async def index() -> ResponseReturnValue:
    """Runs, newest first, by state and task."""
    states, task, cursor = states_asked(), request.args.get("task") or None, request.args.get("cursor")
    store, parent = services().store, request.args.get("parent") or None
    seen_id = store.events.last_id
    page = await store.runs.page(states=states, task=task, parent=parent, limit=LIMIT, cursor=cursor)
    counts = await store.runs.count_by_state()
    return await render_template(
        "runs/index.html",
        runs=page.runs,
        task=task,
        parent=parent,
        states=states,
        total=sum(counts.values()),
        facets=[_facet(facet, states, task, parent, counts) for facet in FACETS],
        older=page.next_cursor and runs_path(states, task, page.next_cursor, parent),
        newest=runs_path(states, task, parent=parent),
        is_first=cursor is None,
        stream_query=_stream_query(states, {"task": task, "parent": parent}, page.runs, seen_id),
        task_names=(await store.tasks.names())[:_KNOWN_TASKS],
    )


def _stream_query(states: list[State], filters: dict[str, str | None], runs: list[Run], seen_id: str) -> str:
    """What the stream of this list must know: its filters, its newest run, and what the page has seen."""
    query = [("state", str(state)) for state in states] + [(name, one) for name, one in filters.items() if one]
    return urlencode([*query, ("newest", runs[0].id if runs else ""), ("after", seen_id)])


def states_asked() -> list[State]:
    """The states in the query. Raises InvalidInput that names the nearest one."""
    names = request.args.getlist("state")
    unknown = next((name for name in names if name not in set(State)), None)
    if unknown is not None:
        raise InvalidInput(f"there is no state '{unknown}'{nearest(unknown, State)}")
    return [State(name) for name in names]


def _facet(
    facet: Any, states: list[State], task: str | None, parent: str | None, counts: dict[State, int]
) -> dict[str, Any]:
    is_all = facet.icon == "runs"
    return {
        "facet": facet,
        "href": runs_path(() if is_all else facet.states, task, parent=parent),
        "current": set(states) == (set() if is_all else set(facet.states)),
        "count": None if task or parent else sum(counts[state] for state in facet.states),
    }


@blueprint.get("/new")
async def new() -> ResponseReturnValue:
    """The form of a new run; `?type=` chooses the type, `?from=` a run to begin with."""
    source = request.args.get("from")
    body = again(await services().store.runs.get(source)) if source else {}
    form = await _form(request.args.get("type") or body.get("type"))
    form.show(body)
    return await _show_form(form)


async def _form(type_name: str | None) -> RunForm:
    types = services().types
    return RunForm(await types.get(type_name or first_type(await types.all())), services().timezone)


async def _show_form(form: RunForm) -> str:
    types = [one.name for one in await services().types.all()]
    return await render_template("runs/new.html", form=form, types=types, type=form.task_type)


@blueprint.post("/new")
async def create() -> ResponseReturnValue:
    """Create the run and show it; or the form again, with its faults."""
    typed = await request.form
    form = await _form(typed.get("type"))
    form.take(typed)
    try:
        run, _ = await actions.create_run(services(), _body(form), by=identity().by, trigger="ui")
    except InvalidInput as error:
        form.blame(error.faults)
        return await _show_form(form), 422
    return go(f"/runs/{run.id}")


def _body(form: RunForm) -> dict[str, Any]:
    return form.body(RunRequest, form.task_type.check)


@blueprint.get("/<run_id>")
async def show(run_id: str) -> ResponseReturnValue:
    """One run: where it stands, how it got there, its log."""
    store = services().store
    run = await store.runs.get(run_id)
    log = await log_view(store, run, _attempt(run), tail=_PANEL_LINES)
    children = await children_of(store, run) if run.spec.place == "all" else {}
    why = await store.why(run)
    return await render_template("runs/show.html", run=run, log=log, why=why, title=title_of(run), **children)


def _attempt(run: Run) -> int:
    asked = request.args.get("attempt", "")
    latest = max(run.attempt, 1)
    return min(int(asked), latest) if asked.isdigit() and int(asked) else latest


@blueprint.get("/<run_id>/log")
async def log(run_id: str) -> ResponseReturnValue:
    """The log alone: its last lines, those before line `?until=`, or with `?lines=all` all of them."""
    store = services().store
    run = await store.runs.get(run_id)
    asked = request.args.get("until", "")
    until = int(asked) if asked.isdigit() and int(asked) else None
    tail = None if request.args.get("lines") == "all" else _PAGE_LINES
    view = await log_view(store, run, _attempt(run), tail=tail, until=until)
    return await render_template("runs/log.html", run=run, log=view, title=f"Log · {title_of(run)}")


@blueprint.post("/<run_id>/cancel")
async def cancel(run_id: str) -> ResponseReturnValue:
    """Cancel the run, and show it."""
    try:
        state = await actions.cancel_run(services(), run_id, by=identity().by)
    except Conflict as error:
        return go(f"/runs/{run_id}", str(error), refused=True)
    return go(f"/runs/{run_id}", "The run is cancelled." if state is State.CANCELLED else "")


@blueprint.post("/<run_id>/again")
async def run_again(run_id: str) -> ResponseReturnValue:
    """A new run with everything of this one but its state."""
    fresh = await actions.repeat_run(services(), run_id, None, by=identity().by)
    return go(f"/runs/{fresh.id}", "This run repeats the one that you came from.")
