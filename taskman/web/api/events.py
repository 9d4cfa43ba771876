"""`/api/v1/events`: the changes of runs and tasks as server-sent events."""

from __future__ import annotations

from quart import Blueprint, request
from quart.typing import ResponseReturnValue

from ...model.events import Event, RunEvent, TaskEvent, WorkerEvent
from ..events import ChangeEvents
from ..services import services
from ..sse import respond
from .bodies import check_query

__all__ = ["blueprint"]

blueprint = Blueprint("events_api", __name__, url_prefix="/events")


@blueprint.get("")
async def stream() -> ResponseReturnValue:
    """Every change from now on, or from `Last-Event-ID` (or `?after=`) on; of one task or run when asked."""
    check_query("task", "run", "after")
    task, run = request.args.get("task"), request.args.get("run")

    def wanted(event: Event) -> bool:
        if isinstance(event, RunEvent):
            return run in (None, event.id) and task in (None, event.task)
        if isinstance(event, WorkerEvent):
            return run is None and task is None
        return isinstance(event, TaskEvent) and run is None and task in (None, event.name)

    source = ChangeEvents(services().store.events, wanted)
    await source.resume(request.headers.get("Last-Event-ID") or request.args.get("after"))
    return await respond(source, services().drain)
