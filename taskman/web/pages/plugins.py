"""`/plugins`: the task types, where they come from, and what is wrong with those that were refused."""

from __future__ import annotations

from quart import Blueprint, render_template
from quart.typing import ResponseReturnValue

from ..auth import require_page
from ..schemas import fields_of
from ..services import services

__all__ = ["blueprint"]

blueprint = Blueprint("plugins", __name__)
blueprint.before_request(require_page)


@blueprint.get("/plugins")
async def index() -> ResponseReturnValue:
    """Every plugin found, the refused ones with their error."""
    workers = await services().store.workers.live()
    types = [
        {
            "type": one,
            "fields": fields_of(one.schema, ""),
            "workers": [(entry.node.id, entry.versions[one.name]) for entry in workers if one.name in entry.versions],
        }
        for one in await services().types.all()
    ]
    return await render_template("plugins/index.html", plugins=services().registry.plugins, types=types)
