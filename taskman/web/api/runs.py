"""`/api/v1/runs`: create, list, look at, cancel, delete, and read the log."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import trio
from quart import Blueprint, Response, make_response, request
from quart.typing import ResponseReturnValue
from werkzeug.exceptions import NotAcceptable

from ...errors import InvalidInput, StoreUnavailable, nearest
from ...model.instants import format_instant
from ...model.run import Run
from ...model.states import State
from ...model.task import CancelRequest, RetryRequest
from ...model.validation import validate
from ...store.pubsub import Message
from ...store.store import Store
from .. import actions
from ..auth import identity, rights
from ..logs import LogBody, LogEvents, LogReader, Position, as_bytes, as_ndjson
from ..services import Services, services
from ..sse import respond
from .bodies import check_query, idempotency_of, instant_of, json_body, limit_of, number_of, seconds_of, trigger_of

__all__ = ["blueprint"]

_RETRY_S = 0.5

blueprint = Blueprint("runs_api", __name__, url_prefix="/runs")


@blueprint.post("")
async def create() -> ResponseReturnValue:
    """Create a run: 201 with its address."""
    body, idempotency = await json_body(), await idempotency_of()
    made = await actions.create_run(services(), body, by=identity().by, trigger=trigger_of(), idempotency=idempotency)
    return created(*made)


def created(run: Run, is_new: bool) -> tuple[dict[str, Any], int, dict[str, str]]:
    """The answer to a request that has made a run, or whose run had been made before."""
    headers = {"Location": f"/api/v1/runs/{run.id}"}
    if not is_new:
        headers["Idempotent-Replayed"] = "true"
    return run.to_json(detail=True), 201 if is_new else 200, headers


@blueprint.get("")
async def index() -> ResponseReturnValue:
    """Runs, newest first. Where few match, a page is short, and `next_cursor` goes on: see store/listing.py."""
    check_query("state", "task", "type", "queue", "parent", "worker", "since", "until", "q", "limit", "cursor")
    page = await services().store.runs.page(
        states=[_state(name) for name in request.args.getlist("state")],
        task=request.args.get("task"),
        type=request.args.get("type"),
        queue=request.args.get("queue"),
        parent=request.args.get("parent"),
        worker=request.args.get("worker"),
        since_ms=instant_of("since"),
        until_ms=instant_of("until"),
        text=request.args.get("q"),
        limit=limit_of(),
        cursor=request.args.get("cursor"),
    )
    return {"items": [run.to_json() for run in page.runs], "next_cursor": page.next_cursor}


def _state(name: str) -> State:
    try:
        return State(name)
    except ValueError:
        known = ", ".join(State)
        raise InvalidInput(f"there is no state '{name}'{nearest(name, State)} (known: {known})", "?state") from None


@blueprint.get("/<run_id>")
async def show(run_id: str) -> ResponseReturnValue:
    """One run with its attempts and history; `?wait=30` waits that long for its end."""
    check_query("wait")
    run = await services().store.runs.get(run_id)
    if (wait_s := seconds_of("wait")) and not run.is_final:
        run = await _wait(services(), run, wait_s)
    return run.to_json(detail=True)


async def _wait(services: Services, run: Run, wait_s: float) -> Run:
    """The run when it is final or the time is over. An outage of Redis that ends in time is waited out."""
    with trio.move_on_after(wait_s) as timer:
        services.drain.watch(timer.cancel)
        try:
            while True:
                with suppress(StoreUnavailable):
                    return await _end_of(services.store, run.id)
                await trio.sleep(_RETRY_S)
        finally:
            services.drain.unwatch(timer.cancel)
    return await services.store.runs.get(run.id)


async def _end_of(store: Store, run_id: str) -> Run:
    async with store.pubsub.subscribe(store.logs.channel(run_id)) as hints:
        run = await store.runs.get(run_id)
        while not run.is_final:
            hint = await anext(hints)
            if not isinstance(hint, Message) or hint.payload == b"end":
                run = await store.runs.get(run_id)
    return run


@blueprint.delete("/<run_id>")
async def delete(run_id: str) -> ResponseReturnValue:
    """Forget it now, when it is final: with its log and its children."""
    await actions.delete_run(services(), run_id)
    return "", 204


@blueprint.get("/<run_id>/why")
async def why(run_id: str) -> ResponseReturnValue:
    """Why it is not running: every reason, from the same rule that decides."""
    run = await services().store.runs.get(run_id)
    reasons = [
        {"code": one.code, "detail": one.detail, "since": format_instant(one.since_ms)}
        for one in await services().store.why(run)
    ]
    return {"state": run.state, "reasons": reasons}


@blueprint.post("/<run_id>/cancel")
async def cancel(run_id: str) -> ResponseReturnValue:
    """Cancel: at once while it waits, as soon as its processes are gone while it runs."""
    wanted = validate(CancelRequest, await json_body(optional=True))
    await actions.cancel_run(services(), run_id, by=identity().by, force=wanted.force)
    return (await services().store.runs.get(run_id)).to_json(detail=True), 202


@blueprint.post("/<run_id>/retry")
async def retry(run_id: str) -> ResponseReturnValue:
    """Run the same again, or with other params; `parent` of the new run names this one."""
    wanted = validate(RetryRequest, await json_body(optional=True))
    return created(await actions.repeat_run(services(), run_id, wanted.params, by=identity().by), is_new=True)


@blueprint.get("/<run_id>/log")
async def log(run_id: str) -> ResponseReturnValue:
    """The log of an attempt, as text, NDJSON or server-sent events by the Accept header."""
    check_query("attempt", "after", "tail", "follow")
    run = await services().store.runs.get(run_id)
    start = await _start(run)
    kinds = ["text/plain", "application/x-ndjson", "text/event-stream"]
    kind = request.accept_mimetypes.best_match(kinds, default="" if request.accept_mimetypes else kinds[0])
    if not kind:
        raise NotAcceptable(f"the log comes as {', '.join(kinds)}")
    follow = kind == "text/event-stream" or number_of("follow", 0, 0, 1) == 1
    reader = await LogReader(services().store, run, start, follow=follow).open()
    if kind == "text/event-stream":
        return await respond(LogEvents(reader), services().drain)
    return await _plain(reader, kind)


async def _start(run: Run) -> Position:
    """Where to begin: after a line, `after=17` or `after=2-17` with the attempt, or with the last lines."""
    given = request.headers.get("Last-Event-ID") or request.args.get("after", "")
    attempt, dash, line = given.rpartition("-")
    try:
        position = Position(int(attempt) if dash else 0, int(line or 0))
    except ValueError:
        raise InvalidInput("'after' takes a line number, or attempt-line such as 2-17", "?after") from None
    chosen = number_of("attempt", position.attempt or max(run.attempt, 1), 1, max(run.attempt, 1))
    if tail := number_of("tail", 0, 0, 1_000_000):
        return Position(chosen, await services().store.logs.line_before_tail(run.id, chosen, tail))
    return Position(chosen, position.line)


async def _plain(reader: LogReader, kind: str) -> Response:
    form = as_bytes if kind == "text/plain" else as_ndjson
    response = await make_response(b"", 200)
    assert isinstance(response, Response)
    response.response = LogBody(reader, form, services().drain, rights())
    response.headers.pop("Content-Length", None)
    response.content_type = f"{kind}; charset=utf-8" if kind == "text/plain" else kind
    response.headers["X-Accel-Buffering"] = "no"
    response.timeout = None
    return response
