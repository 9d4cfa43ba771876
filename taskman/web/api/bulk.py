"""`POST /api/v1/runs/bulk`: thousands of runs in one request, each accepted or refused by itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from quart import Blueprint, request
from quart.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest

from ...errors import Fault, InvalidInput, QueueFull
from ...store.runs import Receipt
from .. import actions
from ..actions import Order
from ..auth import identity
from ..services import services
from .bodies import json_body, trigger_of

__all__ = ["blueprint"]

MOST = 10_000
_BATCH = 500

blueprint = Blueprint("bulk_api", __name__)


@blueprint.post("/runs/bulk")
async def create_many() -> ResponseReturnValue:
    """Create up to 10,000 runs; the answer has an item for each, in order: its id, or what is wrong with it."""
    bodies = await _bodies()
    if len(bodies) > MOST:
        raise InvalidInput(f"at most {MOST:,} runs in a request: this one has {len(bodies):,}", "/runs")
    by, trigger = identity().by, trigger_of()
    items: list[dict[str, Any]] = []
    for first in range(0, len(bodies), _BATCH):
        items += await _create(bodies[first : first + _BATCH], by, trigger)
    return {"items": items}


async def _bodies() -> list[Any]:
    if request.mimetype == "application/x-ndjson":
        data = cast(bytes, await request.get_data())
        lines = data.split(b"\n")
        return [_parse(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    body = await json_body()
    if not isinstance(body, dict) or not isinstance(body.get("runs"), list) or len(body) != 1:
        raise InvalidInput('send {"runs": […]}, or one run a line as application/x-ndjson', "/runs")
    found: list[Any] = body["runs"]
    return found


def _parse(number: int, line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise BadRequest(f"line {number} is no JSON: {error}") from None


async def _create(bodies: Sequence[Any], by: str, trigger: str) -> list[dict[str, Any]]:
    checked: list[Order | list[Fault]] = []
    for body in bodies:
        try:
            checked.append(await actions.order_of(services(), body, by=by, trigger=trigger))
        except InvalidInput as error:
            checked.append(error.faults)
    submissions = [one.submission(services().queue_limit) for one in checked if isinstance(one, Order)]
    receipts = iter(await services().store.runs.submit(submissions, by=by) if submissions else [])
    return [_item(next(receipts)) if isinstance(one, Order) else _refused(one) for one in checked]


def _item(receipt: Receipt) -> dict[str, Any]:
    if receipt.outcome == "taken":
        return _refused([Fault("/unique", f"run {receipt.run_id} is the same by its unique key, and not over yet")])
    if receipt.outcome == "full":
        return _refused([Fault("/queue", str(QueueFull()))])
    return {"id": receipt.run_id}


def _refused(faults: Sequence[Fault]) -> dict[str, Any]:
    return {"errors": [{"pointer": fault.pointer, "detail": fault.detail} for fault in faults]}
