"""A notice for the next page: set when a form has done its work, shown once, also without JavaScript."""

from __future__ import annotations

from urllib.parse import quote, unquote

from quart import Response, g, redirect, request
from quart.typing import ResponseReturnValue

__all__ = ["clear_shown_notice", "go", "take_notice"]

_COOKIE = "taskman_notice"
_LIMIT = 300


def go(path: str, notice: str = "") -> ResponseReturnValue:
    """Lead on to `path` after a form, with a notice there."""
    response = redirect(path, 303)
    assert isinstance(response, Response)
    if notice:
        response.set_cookie(_COOKIE, quote(notice[:_LIMIT]), max_age=60, httponly=True, samesite="Lax")
    return response


def take_notice() -> str | None:
    """The notice that waits for this page; it is gone afterwards."""
    found = request.cookies.get(_COOKIE)
    if found is None:
        return None
    g.notice_shown = True
    return unquote(found)[:_LIMIT]


async def clear_shown_notice(response: Response) -> Response:
    """After a request: forget the notice that its page has shown."""
    if g.get("notice_shown"):
        response.delete_cookie(_COOKIE)
    return response
