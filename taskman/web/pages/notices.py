"""A notice for the next page: set when a form has done its work, shown once, also without JavaScript."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote

from quart import Response, g, redirect, request
from quart.typing import ResponseReturnValue

__all__ = ["Notice", "clear_shown_notice", "go", "take_notice"]

_COOKIE = "taskman_notice"
_LIMIT = 300
_REFUSED = "!"


@dataclass(frozen=True, slots=True)
class Notice:
    """What the page says on top: that something is done, or why it was not."""

    text: str
    is_refusal: bool = False


def go(path: str, notice: str = "", *, refused: bool = False) -> ResponseReturnValue:
    """Lead on to `path` after a form, with a notice there; `refused`: that says why nothing was done."""
    response = redirect(path, 303)
    assert isinstance(response, Response)
    if notice:
        response.set_cookie(_COOKIE, quote(_kept(notice, refused=refused)), max_age=60, httponly=True, samesite="Lax")
    return response


def _kept(notice: str, *, refused: bool) -> str:
    """The notice as the cookie has it; errors are worded to stand within a sentence."""
    return f"{_REFUSED}{notice[:1].upper()}{notice[1:_LIMIT].rstrip('.')}." if refused else notice[:_LIMIT]


def take_notice() -> Notice | None:
    """The notice that waits for this page; it is gone afterwards."""
    found = request.cookies.get(_COOKIE)
    if found is None:
        return None
    g.notice_shown = True
    text = unquote(found)[: _LIMIT + 2]
    return Notice(text.removeprefix(_REFUSED), text.startswith(_REFUSED))


async def clear_shown_notice(response: Response) -> Response:
    """After a request: forget the notice that its page has shown."""
    if g.get("notice_shown"):
        response.delete_cookie(_COOKIE)
    return response
