"""Error pages: what happened, and what to do next; the API's errors stay problem documents."""

from __future__ import annotations

import logging

from quart import has_websocket_context, render_template, request, websocket
from quart.typing import ResponseReturnValue
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from ...errors import Forbidden, StoreUnavailable, TaskmanError
from ..problems import problem_of, status_of

__all__ = ["register"]

_log = logging.getLogger("taskman.web")
_TITLES = {
    403: "Not allowed",
    404: "Nothing here",
    405: "Not like this",
    409: "Not any more",
    413: "Too large",
    503: "Redis is away",
}


def register(app: QuartTrio) -> None:
    """Answer every error outside of the API with a page."""
    app.register_error_handler(Exception, _show)


async def _show(error: Exception) -> ResponseReturnValue:
    if has_websocket_context():  # before it was accepted, or nobody would answer
        status, detail = _explain(error)
        return detail, status
    if request.path.startswith("/api/"):
        return problem_of(error)
    status, detail = _explain(error)
    title = _TITLES.get(status, "Something went wrong")
    request_id = request.scope.get("taskman.request_id")
    needed = error.scope if isinstance(error, Forbidden) else None
    page = await render_template(
        "errors/show.html",
        status=status,
        title=title,
        detail=detail,
        request_id=request_id,
        comes_back=isinstance(error, StoreUnavailable),
        needed=needed,
        wanted=request.path if request.method == "GET" else "/",
    )
    return page, status


def _explain(error: Exception) -> tuple[int, str]:
    if isinstance(error, Forbidden) and error.scope:
        return 403, f"This needs the scope {error.scope}."
    if isinstance(error, TaskmanError):
        return int(status_of(error)), str(error)
    if isinstance(error, HTTPException):
        if error.code == 404:
            return (
                404,
                "There is no page at this address. Check it for a missing character.",
            )
        return error.code or 500, error.description or "The server cannot answer this request."
    what = f"WebSocket {websocket.path}" if has_websocket_context() else f"{request.method} {request.path}"
    _log.error("unexpected error in %s", what, exc_info=error)
    return 500, "The server failed to build this page. Its log has the details under the request id below."
