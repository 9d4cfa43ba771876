"""`/login`: by token, or by a link that works once; `/logout`."""

from __future__ import annotations

import hmac
import re

from quart import Blueprint, Response, redirect, render_template, request
from quart.typing import ResponseReturnValue

from ..auth import COOKIE, digest
from ..services import services

__all__ = ["blueprint", "local_path"]

blueprint = Blueprint("login", __name__)


@blueprint.get("/login")
async def show() -> ResponseReturnValue:
    """The form; or, with `?link=`, signed in at once."""
    if secret := request.args.get("link"):
        user = await services().store.sessions.redeem_link(secret)
        if user is not None:
            return await _signed_in(user)
        return await _form("This sign-in link has been used or is too old. Use a token, or restart the server."), 403
    return await _form()


@blueprint.post("/login")
async def sign_in() -> ResponseReturnValue:
    """Sign in with a token."""
    offered = digest((await request.form).get("token", "").strip())
    for known, name in services().tokens.items():
        if hmac.compare_digest(known, offered):
            return await _signed_in(name)
    return await _form("This token is not known here. Check it for missing characters."), 403


@blueprint.post("/logout")
async def sign_out() -> ResponseReturnValue:
    """Sign out; only ever harms oneself, so it needs no more proof than the cookie."""
    await services().store.sessions.close(request.cookies.get(COOKIE, ""))
    response = redirect("/login", 303)
    response.delete_cookie(COOKIE)
    return response


async def _form(fault: str | None = None) -> str:
    return await render_template("login/show.html", fault=fault, next=_next())


async def _signed_in(user: str) -> ResponseReturnValue:
    response = redirect(_next(), 303)
    assert isinstance(response, Response)
    secret = await services().store.sessions.open(user)
    response.set_cookie(COOKIE, secret, max_age=30 * 86_400, httponly=True, samesite="Lax", secure=request.is_secure)
    return response


def _next() -> str:
    return local_path(request.args.get("next", "/"))


def local_path(wanted: str) -> str:
    """`wanted` if it is a path of ours, else the overview: nobody shall be led to another site from here."""
    return wanted if re.fullmatch(r"/(?![/\\])[!-~]*", wanted) else "/"
