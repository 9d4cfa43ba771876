"""`/login`: by token, or by a link that works once; `/logout`."""

from __future__ import annotations

import re

from quart import Blueprint, Response, redirect, render_template, request
from quart.typing import ResponseReturnValue

from ...model.token import Scope
from ...store.sessions import Session
from ..auth import COOKIE, Identity, authenticate
from ..services import services

__all__ = ["blueprint", "local_path"]

blueprint = Blueprint("login", __name__)


@blueprint.get("/login")
async def show() -> ResponseReturnValue:
    """The form; or, with `?link=`, signed in at once."""
    if secret := request.args.get("link"):
        user = await services().store.sessions.redeem_link(secret)
        if user is not None:
            return await _signed_in(Session(user, Scope.ADMIN))
        return await _form("This sign-in link has been used or is too old. Use a token, or restart the server."), 403
    return await _form()


@blueprint.post("/login")
async def sign_in() -> ResponseReturnValue:
    """Sign in with a token, to do what it may do for as long as it is valid."""
    token = (await request.form).get("token", "").strip()
    found = await authenticate(services(), token)
    if found is None:
        return await _form("This token is not valid here. Check it for missing characters."), 403
    if not found.may(Scope.READ):
        return await _form("This token is for workers: it opens no pages. Use one with another scope."), 403
    return await _signed_in(Session(found.by.partition(":")[2], found.scope, _bound_to(found)))


def _bound_to(identity: Identity) -> str | None:
    """The token that the session ends with. Each server has its own for its machine, so that one binds nothing."""
    return None if identity.by == "token:local" else identity.id


@blueprint.post("/logout")
async def sign_out() -> ResponseReturnValue:
    """Sign out; only ever harms oneself, so it needs no more proof than the cookie."""
    await services().store.sessions.close(request.cookies.get(COOKIE, ""))
    response = redirect("/login", 303)
    response.delete_cookie(COOKIE)
    return response


async def _form(fault: str | None = None) -> str:
    return await render_template("login/show.html", fault=fault, next=_next())


async def _signed_in(session: Session) -> ResponseReturnValue:
    response = redirect(_next(), 303)
    assert isinstance(response, Response)
    secret = await services().store.sessions.open(session)
    response.set_cookie(COOKIE, secret, max_age=30 * 86_400, httponly=True, samesite="Lax", secure=request.is_secure)
    return response


def _next() -> str:
    return local_path(request.args.get("next", "/"))


def local_path(wanted: str) -> str:
    """`wanted` if it is a path of ours, else the overview: nobody shall be led to another site from here."""
    return wanted if re.fullmatch(r"/(?![/\\])[!-~]*", wanted) else "/"
