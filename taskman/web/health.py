"""`/health`, `/healthcheck`, `/ready`: for balancers and people; open to everybody who may reach the port."""

from __future__ import annotations

from quart import Blueprint
from quart.typing import ResponseReturnValue

from .problems import problem
from .services import services

__all__ = ["blueprint"]

blueprint = Blueprint("health", __name__)


@blueprint.get("/health")
@blueprint.get("/healthcheck")
async def health() -> ResponseReturnValue:
    """200 while the process lives."""
    return {"status": "ok"}


@blueprint.get("/ready")
async def ready() -> ResponseReturnValue:
    """200 while it can do its work, else 503 with the reason."""
    if services().drain.started:
        return problem(503, "stopping", "this server is shutting down")
    if not services().store.is_reachable:
        return problem(503, "store_unavailable", "Redis cannot be reached")
    return {"status": "ok", "durability": services().store.fitness.durability}
