"""Who is asking: a bearer token, or the session of a browser with proof that the request is our own page's."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import trio
from quart import g, has_websocket_context, redirect, request, url_for, websocket
from quart.typing import ResponseReturnValue

from ..errors import Forbidden, StoreUnavailable, Unauthenticated
from ..model.token import Scope
from .access import Identity
from .scopes import scope_of
from .services import Services, services

__all__ = [
    "COOKIE",
    "RECHECK_S",
    "Identity",
    "Rights",
    "authenticate",
    "by_token",
    "check_scope",
    "form_token",
    "identity",
    "require_api",
    "require_page",
    "require_socket",
    "rights",
]

COOKIE = "taskman_session"
RECHECK_S = 30.0
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")


async def authenticate(services: Services, token: str) -> Identity | None:
    """Whom a bearer token stands for; None when it is unknown, revoked or expired. Needs no request of Quart.

    Raises: StoreUnavailable when that cannot be told now, which is no reason to turn anybody away for good.
    """
    return await services.access.identify(token)


def identity() -> Identity:
    """Who sent this request; it has been established already."""
    found: Identity = g.identity
    return found


async def require_api(needed: Scope | None = None) -> None:
    """Let a request into the API; `needed` is the scope of an address that the table does not know.

    Raises: Unauthenticated, Forbidden.
    """
    header = request.headers.get("Authorization", "")
    if header:
        g.identity = await by_token(services(), header)
        _require_scope(needed)
        return
    g.identity = await _by_session()
    _require_scope(needed)
    if request.method not in _SAFE:
        _refuse_foreign_pages()
        if request.mimetype in _FORM_TYPES:
            raise Forbidden("send JSON: forms are not taken here")


async def require_page(needed: Scope | None = None) -> ResponseReturnValue | None:
    """Let a request see a page, or lead it to the sign-in; `needed` as for require_api.

    Raises: Forbidden, also for a form that is not ours.
    """
    try:
        g.identity = await _by_session()
    except Unauthenticated:
        wanted = request.full_path.rstrip("?") if request.method in _SAFE else None
        return redirect(url_for("login.show", next=wanted), 303)
    _require_scope(needed)
    if request.method not in _SAFE:
        _refuse_foreign_pages()
        sent = (await request.form).get("form_token", "")
        if not hmac.compare_digest(sent, form_token()):
            raise Forbidden("this form is out of date: load the page again and repeat")
    return None


async def require_socket(needed: Scope) -> ResponseReturnValue | None:
    """Let a page open a WebSocket; where it comes from has been checked already. Refuses with 401 or 403."""
    try:
        g.identity = await _by_session()
    except Unauthenticated as error:
        return str(error), 401
    return None if identity().may(needed) else (f"this needs the scope '{needed}'", 403)


async def by_token(services: Services, header: str) -> Identity:
    """Whom an Authorization header names. Needs no request of Quart. Raises Unauthenticated, StoreUnavailable."""
    kind, _, token = header.partition(" ")
    if kind.lower() != "bearer" or not token:
        raise Unauthenticated("the Authorization header must read: Bearer TOKEN")
    found = await authenticate(services, token.strip())
    if found is None:
        raise Unauthenticated("this token is not valid here, or not any more: check TASKMAN_TOKEN")
    return found


async def _by_session() -> Identity:
    secret = (websocket if has_websocket_context() else request).cookies.get(COOKIE, "")
    session = await services().store.sessions.find(secret) if secret else None
    found = await services().access.resume(session, secret) if session else None
    if found is None:
        raise Unauthenticated
    return found


class Rights:
    """Whether whoever asked for a stream may still see it, asked now and then while it goes on."""

    def __init__(self, ask: Callable[[], Awaitable[bool]], *, every_s: float = RECHECK_S) -> None:
        self._ask, self._every_s = ask, every_s
        self._due = trio.current_time() + every_s

    async def last(self) -> bool:
        """False once the token or the session has ended; an outage of Redis ends nothing."""
        if trio.current_time() < self._due:
            return True
        self._due = trio.current_time() + self._every_s
        try:
            return await self._ask()
        except StoreUnavailable:
            return True


def rights() -> Rights:
    """The rights of whoever sent this request."""
    here, asked = services(), identity()

    async def ask() -> bool:
        if asked.session is not None:
            session = await here.store.sessions.find(asked.session)
            return session is not None and await here.access.resume(session, asked.session) is not None
        return asked.id is None or await here.access.is_valid(asked.id)

    return Rights(ask)


def _require_scope(needed: Scope | None) -> None:
    """Refuse who may not do this, by the one table of what needs which scope."""
    rule = request.url_rule
    if needed is None:
        needed = scope_of(request.method, rule.rule) if rule is not None else Scope.READ
    check_scope(identity(), needed)


def check_scope(who: Identity, needed: Scope | None) -> None:
    """Refuse whoever may not do what needs that scope. Raises Forbidden."""
    if needed is not None and not who.may(needed):
        kind, _, name = who.by.partition(":")
        raise Forbidden(f"this needs the scope '{needed}': {kind} '{name}' has '{who.scope}'", scope=needed)


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
