"""`/api/v1/schedules`: what a schedule would do, and all there are by their next due instant."""

from __future__ import annotations

from quart import Blueprint
from quart.typing import ResponseReturnValue

from ..services import services
from ..timetable import preview_of, timetable
from .bodies import check_query, json_body, limit_of, number_of

__all__ = ["blueprint"]

blueprint = Blueprint("schedules_api", __name__, url_prefix="/schedules")


@blueprint.get("")
async def index() -> ResponseReturnValue:
    """Every schedule that has a next due instant, the earliest first."""
    check_query("limit", "cursor")
    entries, following = await timetable(services(), limit_of(), number_of("cursor", 0, 0, 10**9))
    cursor = None if following is None else str(following)
    return {"items": [entry.to_json() for entry in entries], "next_cursor": cursor}


@blueprint.post("/preview")
async def show_preview() -> ResponseReturnValue:
    """The schedule of the body in words, its next due instants with notes, and warnings."""
    check_query()
    return (await preview_of(services(), await json_body())).to_json()
