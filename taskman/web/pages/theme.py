"""`/theme`: light, dark, or as the system says; kept in a cookie, so that the server renders it without a flash."""

from __future__ import annotations

from quart import Blueprint, Response, request
from quart.typing import ResponseReturnValue

from ..auth import require_page
from .login import local_path
from .notices import go

__all__ = ["blueprint", "chosen"]

_COOKIE = "taskman_theme"
_THEMES = ("system", "light", "dark")

blueprint = Blueprint("theme", __name__)
blueprint.before_request(require_page)


@blueprint.post("/theme")
async def choose() -> ResponseReturnValue:
    """Keep the choice, and go back to where it was made."""
    form = await request.form
    response = go(local_path(form.get("back", "/")))
    assert isinstance(response, Response)
    if form.get("theme") in _THEMES:
        response.set_cookie(_COOKIE, form["theme"], max_age=400 * 86_400, httponly=True, samesite="Lax")
    return response


def chosen() -> str:
    """The theme of this browser."""
    theme = request.cookies.get(_COOKIE, "system")
    return theme if theme in _THEMES else "system"
