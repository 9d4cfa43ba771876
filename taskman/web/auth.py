"""Who is asking: a bearer token, or the session of a browser with proof that the request is our own page's."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from urllib.parse import urlsplit

from quart import g, redirect, request, url_for
from quart.typing import ResponseReturnValue

from ..errors import Forbidden, Unauthenticated
from .services import services

__all__ = ["COOKIE", "Identity", "digest", "form_token", "identity", "require_api", "require_page"]

COOKIE = "taskman_session"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is asking: `by` is what history says; `session` is the browser's secret, if it is one."""

    by: str
    session: str | None = None


def digest(token: str) -> bytes:
    """What is kept and compared in place of a token."""
    return hashlib.sha256(token.encode()).digest()


def identity() -> Identity:
    """Who sent this request; it has been established already."""
    found: Identity = g.identity
    return found


async def require_api() -> None:
    """Let a request into the API. Raises Unauthenticated, Forbidden."""
    header = request.headers.get("Authorization", "")
    if header:
        g.identity = _by_token(header)
        return
    g.identity = await _by_session()
    if request.method not in _SAFE:
        _refuse_foreign_pages()
        if request.mimetype in _FORM_TYPES:
            raise Forbidden("send JSON: forms are not taken here")


async def require_page() -> ResponseReturnValue | None:
    """Let a request see a page, or lead it to the sign-in. Raises Forbidden for a form that is not ours."""
    try:
        g.identity = await _by_session()
    except Unauthenticated:
        wanted = request.full_path.rstrip("?") if request.method in _SAFE else None
        return redirect(url_for("login.show", next=wanted), 303)
    if request.method not in _SAFE:
        _refuse_foreign_pages()
        sent = (await request.form).get("form_token", "")
        if not hmac.compare_digest(sent, form_token()):
            raise Forbidden("this form is out of date: load the page again and repeat")
    return None


def _by_token(header: str) -> Identity:
    kind, _, token = header.partition(" ")
    if kind.lower() != "bearer" or not token:
        raise Unauthenticated("the Authorization header must read: Bearer TOKEN")
    offered = digest(token.strip())
    for known, name in services().tokens.items():
        if hmac.compare_digest(known, offered):
            return Identity(f"token:{name}")
    raise Unauthenticated("this token is not known here: check TASKMAN_TOKEN")


async def _by_session() -> Identity:
    secret = request.cookies.get(COOKIE, "")
    user = await services().store.sessions.user(secret) if secret else None
    if user is None:
        raise Unauthenticated
    return Identity(f"user:{user}", secret)


def _refuse_foreign_pages() -> None:
    """A browser sends our cookie along with whatever any page makes it send: take what comes from our pages only."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden("this request comes from another site")
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc.lower() != request.host.lower():
        raise Forbidden("this request comes from another origin")


def form_token() -> str:
    """The proof in each form of a session that our page made it."""
    session = identity().session or ""
    return hmac.new(services().secret_key, session.encode(), hashlib.sha256).hexdigest()
