"""`/workers`: who works, and one worker with what it runs; drain and resume."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from quart import Blueprint, render_template, request
from quart.typing import ResponseReturnValue

from ...model.states import FINAL
from ...store.store import Store
from ...store.workers import WorkerEntry
from ..auth import require_page
from ..services import services
from .notices import go

__all__ = ["blueprint", "worker_list", "worker_view"]

LIMIT = 100
_RUNNING, _ENDED, _LOOK_BACK = 50, 12, 300

blueprint = Blueprint("workers", __name__, url_prefix="/workers")
blueprint.before_request(require_page)


@blueprint.get("")
async def index() -> ResponseReturnValue:
    """The workers of the last day, by id."""
    return await render_template(
        "workers/index.html", **await worker_list(services().store, request.args.get("cursor"))
    )


async def worker_list(store: Store, cursor: str | None) -> dict[str, Any]:
    """What the list shows: some workers by id, and how all of them stand. Raises StoreUnavailable."""
    entries = await store.workers.known()
    rest = [entry for entry in entries if entry.node.id > (cursor or "")]
    return {
        "workers": rest[:LIMIT],
        "following": rest[LIMIT - 1].node.id if len(rest) > LIMIT else None,
        "cursor": cursor,
        "counts": Counter(entry.state for entry in entries),
        "busy": sum(entry.node.running for entry in entries if entry.online),
        "slots": sum(entry.node.slots for entry in entries if entry.state == "online"),
        "skew": _skew(entries),
    }


def _skew(entries: Sequence[WorkerEntry]) -> dict[str, list[tuple[str, int]]]:
    """The task types that live workers have in different versions, and how many workers have each."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for entry in entries:
        for name, version in entry.versions.items() if entry.online else ():
            found[name][version] += 1
    return {name: sorted(counts.items()) for name, counts in sorted(found.items()) if len(counts) > 1}


@blueprint.get("/<worker_id>")
async def show(worker_id: str) -> ResponseReturnValue:
    """One worker, by its id or its name."""
    return await render_template("workers/show.html", **await worker_view(services().store, worker_id))


async def worker_view(store: Store, worker_id: str) -> dict[str, Any]:
    """What the page of a worker shows. Raises NotFound, StoreUnavailable."""
    entry = await store.workers.get(worker_id)
    held = (await store.runs.leases()).get(entry.node.id, [])
    newest = await store.runs.page(states=sorted(FINAL), limit=_LOOK_BACK)
    return {
        "worker": replace(entry, node=replace(entry.node, running=len(held))),  # its heartbeat may be older
        "held": len(held),
        "running": await store.runs.get_many([run_id for run_id, _ in held[:_RUNNING]]),
        "ended": [run for run in newest.runs if run.worker == entry.node.id][:_ENDED],
        "skew": _skew(await store.workers.known()),
    }


@blueprint.post("/<worker_id>/drain")
async def drain(worker_id: str) -> ResponseReturnValue:
    """Let it finish what it runs, and take nothing new."""
    return await _set_draining(worker_id, "", draining=True)


@blueprint.post("/<worker_id>/resume")
async def resume(worker_id: str) -> ResponseReturnValue:
    """Let it take runs again."""
    return await _set_draining(worker_id, "It takes runs again.", draining=False)


async def _set_draining(worker_id: str, notice: str, *, draining: bool) -> ResponseReturnValue:
    workers = services().store.workers
    entry = await workers.get(worker_id)
    await workers.drain(entry.node.id, draining=draining)
    return go(f"/workers/{entry.node.id}", notice)
