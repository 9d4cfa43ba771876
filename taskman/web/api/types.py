"""`/api/v1/task-types` and `/api/v1/plugins`: what this server can check, and which plugins are broken."""

from __future__ import annotations

from dataclasses import asdict

from quart import Blueprint
from quart.typing import ResponseReturnValue

from ...tasktypes import params_schema
from ..services import services

__all__ = ["blueprint"]

blueprint = Blueprint("types_api", __name__)


@blueprint.get("/task-types")
async def task_types() -> ResponseReturnValue:
    """Every task type that this server knows, with the JSON Schema of its params and the workers that have it."""
    live = await services().store.workers.live()
    items = [
        {
            "name": one.name,
            "version": one.version,
            "description": one.description,
            "schema": params_schema(one.Params),
            "workers": [
                {"id": entry.node.id, "version": entry.versions.get(one.name, "")}
                for entry in live
                if one.name in entry.node.types
            ],
        }
        for _, one in sorted(services().registry.task_types.items())
    ]
    return {"items": items, "next_cursor": None}


@blueprint.get("/plugins")
async def plugins() -> ResponseReturnValue:
    """Every plugin found, the refused ones with their error."""
    return {"items": [asdict(one) for one in services().registry.plugins], "next_cursor": None}
