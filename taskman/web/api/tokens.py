"""`/api/v1/tokens`: create, list and revoke API tokens."""

from __future__ import annotations

from quart import Blueprint
from quart.typing import ResponseReturnValue

from ...errors import NotFound
from ...model.token import TokenRequest
from ...model.validation import validate
from ..auth import identity
from ..services import services
from .bodies import check_query, json_body

__all__ = ["blueprint"]

blueprint = Blueprint("tokens_api", __name__, url_prefix="/tokens")


@blueprint.post("")
async def create() -> ResponseReturnValue:
    """Create a token: 201; `token` is shown this once."""
    wanted = validate(TokenRequest, await json_body())
    token, secret = await services().store.tokens.create(wanted, by=identity().by)
    return {**token.to_json(), "token": secret}, 201


@blueprint.get("")
async def index() -> ResponseReturnValue:
    """Every token, the newest first; also those that have expired in the last month."""
    check_query()
    return {"items": [token.to_json() for token in await services().store.tokens.all()], "next_cursor": None}


@blueprint.delete("/<token_id>")
async def revoke(token_id: str) -> ResponseReturnValue:
    """Revoke a token, and with it every session that it has signed in."""
    if not await services().access.revoke(token_id):
        raise NotFound(f"there is no token '{token_id}': it has been revoked already, or never was")
    return "", 204
