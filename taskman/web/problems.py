"""Errors as `application/problem+json` (RFC 9457), and which exception becomes which status."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from http import HTTPStatus

from quart import Response, request
from werkzeug.exceptions import HTTPException

from ..errors import (
    Conflict,
    Fault,
    Forbidden,
    InvalidInput,
    NotFound,
    QueueFull,
    StoreError,
    StoreUnavailable,
    TaskmanError,
    Unauthenticated,
)

__all__ = ["problem", "problem_of", "status_of"]

_STATUS: tuple[tuple[type[TaskmanError], HTTPStatus], ...] = (
    (InvalidInput, HTTPStatus.UNPROCESSABLE_ENTITY),
    (NotFound, HTTPStatus.NOT_FOUND),
    (Conflict, HTTPStatus.CONFLICT),
    (QueueFull, HTTPStatus.TOO_MANY_REQUESTS),
    (Unauthenticated, HTTPStatus.UNAUTHORIZED),
    (Forbidden, HTTPStatus.FORBIDDEN),
    (StoreUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (StoreError, HTTPStatus.SERVICE_UNAVAILABLE),
)
_log = logging.getLogger("taskman.web")


def status_of(error: TaskmanError) -> HTTPStatus:
    """The HTTP status that says what this exception says."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)


def problem(status: int, code: str, detail: str, faults: Sequence[Fault] = (), *, scope: str | None = None) -> Response:
    """A problem document; `scope` is the one that the request would have needed."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": request.scope.get("taskman.request_id"),
    }
    if faults:
        body["errors"] = [{"pointer": fault.pointer, "detail": fault.detail} for fault in faults]
    if scope:
        body["scope"] = scope
    response = Response(json.dumps(body, ensure_ascii=False), status=status, content_type="application/problem+json")
    if status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        response.headers["Retry-After"] = "2"
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="taskman"'
    elif scope:
        response.headers["WWW-Authenticate"] = f'Bearer realm="taskman", error="insufficient_scope", scope="{scope}"'
    return response


def problem_of(error: Exception) -> Response:
    """The problem document of an exception; what nobody expected is logged and told as a plain 500."""
    if isinstance(error, TaskmanError):
        faults = error.faults if isinstance(error, InvalidInput) else ()
        return problem(status_of(error), error.code, str(error), faults, scope=getattr(error, "scope", None))
    if isinstance(error, HTTPException):
        status = error.code or 500
        code = HTTPStatus(status).name.lower()
        return problem(status, code, error.description or HTTPStatus(status).description)
    _log.error("unexpected error in %s %s", request.method, request.path, exc_info=error)
    return problem(500, "internal", "something went wrong in the server; its log has the details under this request id")
