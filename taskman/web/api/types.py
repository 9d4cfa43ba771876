"""`/api/v1/task-types` and `/api/v1/plugins`: what this server can check, and which plugins are broken."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict

from quart import Blueprint
from quart.typing import ResponseReturnValue

from ...errors import StoreUnavailable
from ...store.workers import WorkerEntry
from ..services import services

__all__ = ["blueprint"]

blueprint = Blueprint("types_api", __name__)


@blueprint.get("/task-types")
async def task_types() -> ResponseReturnValue:
    """Every task type of this server and of the workers, with the JSON Schema of its params and who has it."""
    live: list[WorkerEntry] | None = None
    with suppress(StoreUnavailable):  # the types are known without Redis, who has them is not
        live = await services().store.workers.live()
    items = [
        {
            "name": one.name,
            "version": one.version,
            "description": one.description,
            "schema": one.schema,
            "workers": live if live is None else _having(one.name, live),
        }
        for one in await services().types.all()
    ]
    return {"items": items, "next_cursor": None}


@blueprint.get("/plugins")
async def plugins() -> ResponseReturnValue:
    """Every plugin found, the refused ones with their error."""
    return {"items": [asdict(one) for one in services().registry.plugins], "next_cursor": None}


def _having(name: str, workers: list[WorkerEntry]) -> list[dict[str, str]]:
    found = [entry for entry in workers if name in entry.versions]
    return [{"id": entry.node.id, "version": entry.versions[name]} for entry in found]
