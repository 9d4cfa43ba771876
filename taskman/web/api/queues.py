"""`/api/v1/queues`: what waits where."""

from __future__ import annotations

from dataclasses import asdict

from quart import Blueprint
from quart.typing import ResponseReturnValue

from ...errors import NotFound
from ..services import services

__all__ = ["blueprint"]

blueprint = Blueprint("queues_api", __name__)


@blueprint.get("/queues")
async def queues() -> ResponseReturnValue:
    """Every queue by name: depth, the run that waits longest, how many run, whether it is paused."""
    return {"items": [asdict(one) for one in await services().store.queues.all()], "next_cursor": None}


@blueprint.post("/queues/<name>/pause")
async def pause(name: str) -> ResponseReturnValue:
    """Start nothing more from this queue; what runs goes on."""
    return await _set_paused(name, paused=True)


@blueprint.post("/queues/<name>/resume")
async def resume(name: str) -> ResponseReturnValue:
    """Start what waits in this queue again."""
    return await _set_paused(name, paused=False)


async def _set_paused(name: str, *, paused: bool) -> ResponseReturnValue:
    known = await services().store.queues.all()
    if name not in {one.name for one in known}:
        raise NotFound(f"there is no queue '{name}': no run has been in it")
    await services().store.queues.pause(name, paused=paused)
    return next(asdict(one) for one in await services().store.queues.all() if one.name == name)
