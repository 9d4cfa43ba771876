"""`/schedules`: every schedule by its next due instant, and a place to try a cron expression."""

from __future__ import annotations

from quart import Blueprint, render_template, request
from quart.typing import ResponseReturnValue

from ...model.instants import parse_instant, zone
from ..auth import require_page
from ..forms import Field, Form
from ..services import services
from ..timetable import surroundings, timetable
from .looks import Look, look
from .rendering import renderer
from .wording import now_ms

__all__ = ["blueprint"]

LIMIT = 50
_FIRES = 8

blueprint = Blueprint("schedules", __name__, url_prefix="/schedules")
blueprint.before_request(require_page)


@blueprint.get("")
async def index() -> ResponseReturnValue:
    """Schedules by their next due instant; and the preview of what was typed, if anything was."""
    place = request.args.get("cursor", "")
    entries, following = await timetable(services(), LIMIT, int(place) if place.isdigit() and len(place) < 9 else 0)
    form = _typed()
    seen = await _look(form)
    return await render_template(
        "schedules/index.html", entries=entries, following=following, cursor=place, form=form, look=seen
    )


@blueprint.get("/preview")
async def show_preview() -> ResponseReturnValue:
    """The preview alone, for htmx while somebody types."""
    return await renderer().into("#look", "_partials/preview.html", "innerHTML", look=await _look(_typed()))


def _typed() -> Form:
    form = Form(
        all=[
            Field("cron", "Cron", example="30 2 * * 1-5", help="minute hour day month weekday"),
            Field("timezone", "Time zone", help="such as Europe/Berlin or UTC"),
            Field("from", "From", "moment", help="on the clock of that zone; default: now"),
        ]
    )
    form.take({"timezone": services().timezone, **request.args.to_dict()})
    return form


async def _look(form: Form) -> Look:
    cron, timezone = form.fields["cron"].value.strip(), form.fields["timezone"].value.strip() or services().timezone
    if not cron:
        return Look()
    try:
        zone(timezone)
    except ValueError as error:
        return Look(fault=str(error))
    form.fields["from"].timezone = timezone
    typed, faults = form.read()
    if faults:
        return Look(timezone, fault=faults[0].detail)
    since = parse_instant(typed["from"]) if "from" in typed else None
    around = await surroundings(services())
    return look({"cron": cron, "timezone": timezone}, timezone, now_ms(), count=_FIRES, since_ms=since, around=around)
