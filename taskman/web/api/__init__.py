"""The REST API under /api/v1."""

from __future__ import annotations

from quart import Blueprint, Response

from ..auth import require_api
from ..problems import problem_of
from . import bulk, events, queues, runs, schedules, tasks, tokens, types, workers

__all__ = ["blueprint"]

blueprint = Blueprint("api", __name__, url_prefix="/api/v1")
blueprint.before_request(require_api)
for part in (bulk, runs, tasks, schedules, queues, workers, events, types, tokens):
    blueprint.register_blueprint(part.blueprint)


@blueprint.errorhandler(Exception)
async def refuse(error: Exception) -> Response:
    """Every error of the API is a problem document."""
    return problem_of(error)
