"""`/api/v1/workers`: who works, and who is to take nothing new."""

from __future__ import annotations

from typing import Any

from quart import Blueprint
from quart.typing import ResponseReturnValue

from ...model.instants import format_instant
from ...store.workers import WorkerEntry
from ..services import services

__all__ = ["blueprint"]

blueprint = Blueprint("workers_api", __name__, url_prefix="/workers")


@blueprint.get("")
async def workers() -> ResponseReturnValue:
    """The workers that are there, with their slots and what they serve."""
    return {"items": [_shown(entry) for entry in await services().store.workers.live()], "next_cursor": None}


@blueprint.get("/<worker_id>")
async def show(worker_id: str) -> ResponseReturnValue:
    """One worker by its id or its name; also one that has gone within a day, as `offline`."""
    return _shown(await services().store.workers.get(worker_id))


@blueprint.post("/<worker_id>/drain")
async def drain(worker_id: str) -> ResponseReturnValue:
    """Let it finish what it runs, and take nothing new."""
    return await _set_draining(worker_id, draining=True)


@blueprint.post("/<worker_id>/resume")
async def resume(worker_id: str) -> ResponseReturnValue:
    """Let it take runs again."""
    return await _set_draining(worker_id, draining=False)


async def _set_draining(worker_id: str, *, draining: bool) -> ResponseReturnValue:
    store = services().store
    entry = await store.workers.get(worker_id)
    await store.workers.drain(entry.node.id, draining=draining)
    return _shown(await store.workers.get(entry.node.id))


def _shown(entry: WorkerEntry) -> dict[str, Any]:
    node = entry.node
    return {
        "id": node.id,
        "name": entry.about.name or node.id,
        "version": entry.about.version,
        "types": entry.versions,
        "queues": None if node.queues is None else sorted(node.queues),
        "labels": dict(node.labels),
        "slots": node.slots,
        "running": node.running,
        "state": entry.state,
        "last_seen": format_instant(entry.seen_ms),
        "address": entry.about.address,
    }
