"""`POST /api/v1/runs/bulk`: thousands of runs in one request, each accepted or refused by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import trio
from quart import Blueprint, request
from quart.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest

from ...errors import Fault, InvalidInput, QueueFull, TaskmanError
from ...model.sameness import digest_of
from ...store.runs import Receipt
from .. import actions
from ..actions import Order
from ..asgi import sole_error
from ..auth import identity
from ..services import Services, services
from .bodies import idempotency_of, json_body, parse_json, trigger_of

__all__ = ["blueprint"]

MOST = 10_000
_BATCH = 500
_AT_ONCE = 3

blueprint = Blueprint("bulk_api", __name__)


@blueprint.post("/runs/bulk")
async def create_many() -> ResponseReturnValue:
    """Create up to 10,000 runs; the answer has an item for each, in order: its id, or what is wrong with it.

    With an Idempotency-Key, the same request again gives the same runs: each has that key and its place.
    """
    bodies = await _bodies()
    if len(bodies) > MOST:
        raise InvalidInput(f"at most {MOST:,} runs in a request: this one has {len(bodies):,}", "/runs")
    making = _Making(services(), identity().by, trigger_of(), await idempotency_of())
    try:
        await making.create(bodies)
    except* TaskmanError as errors:
        raise sole_error(errors) from None
    return {"items": making.items}


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
        return parse_json(line)
    except ValueError as error:
        raise BadRequest(f"line {number} is no JSON: {error}") from None


@dataclass
class _Making:
    """The runs of one request on their way: while Redis takes a batch, the next one is checked."""

    services: Services
    by: str
    trigger: str
    idempotency: tuple[str, str] | None
    items: list[dict[str, Any]] = field(default_factory=list)

    async def create(self, bodies: Sequence[Any]) -> None:
        """Create what is right in `bodies`. Cancellation: what has been handed over is created all the same."""
        room = trio.CapacityLimiter(_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for first in range(0, len(bodies), _BATCH):
                checked = [await self._check(body) for body in bodies[first : first + _BATCH]]
                self.items += [_refused(one) if isinstance(one, list) else {} for one in checked]
                await room.acquire_on_behalf_of(first)
                nursery.start_soon(self._submit, checked, first, room)
                await trio.lowlevel.checkpoint()

    async def _check(self, body: Any) -> Order | list[Fault]:
        try:
            return await actions.order_of(self.services, body, by=self.by, trigger=self.trigger)
        except InvalidInput as error:
            return error.faults

    async def _submit(self, checked: Sequence[Order | list[Fault]], first: int, room: trio.CapacityLimiter) -> None:
        orders = [(number, one) for number, one in enumerate(checked, first) if isinstance(one, Order)]
        submissions = [self._keyed(order, number).submission(self.services.queue_limit) for number, order in orders]
        receipts = await self.services.store.runs.submit(submissions, by=self.by) if submissions else []
        for (number, _), receipt in zip(orders, receipts, strict=True):
            self.items[number] = _item(receipt)
        room.release_on_behalf_of(first)

    def _keyed(self, order: Order, place: int) -> Order:
        """The order under the key of the whole request and its own place in it."""
        if self.idempotency is None:
            return order
        key, body = self.idempotency
        return replace(order, idempotency=(digest_of(key, str(place)), body))


def _item(receipt: Receipt) -> dict[str, Any]:
    if receipt.outcome == "taken":
        return _refused([Fault("/unique", f"run {receipt.run_id} is the same by its unique key, and not over yet")])
    if receipt.outcome == "mismatch":
        return _refused([Fault("", "this Idempotency-Key came with another body before: use a new key")])
    if receipt.outcome == "full":
        return _refused([Fault("/queue", str(QueueFull()))])
    return {"id": receipt.run_id}


def _refused(faults: Sequence[Fault]) -> dict[str, Any]:
    return {"errors": [{"pointer": fault.pointer, "detail": fault.detail} for fault in faults]}
