"""Errors as `application/problem+json` (RFC 9457), and which exception becomes which status."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

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

__all__ = ["Problem", "problem", "problem_of", "status_of"]

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


@dataclass(frozen=True, slots=True)
class Problem:
    """A refusal; `scope` is the one that the request would have needed."""

    status: int
    code: str
    detail: str
    faults: Sequence[Fault] = ()
    scope: str | None = None

    def document(self, request_id: str | None) -> bytes:
        """What the answer's body says, as JSON."""
        body = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "request_id": request_id,
        }
        if self.faults:
            body["errors"] = [{"pointer": fault.pointer, "detail": fault.detail} for fault in self.faults]
        if self.scope:
            body["scope"] = self.scope
        return json.dumps(body, ensure_ascii=False).encode()

    @property
    def headers(self) -> dict[str, str]:
        """What the answer's head says besides its status."""
        headers = {"Content-Type": "application/problem+json"}
        if self.status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
            headers["Retry-After"] = "2"
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = 'Bearer realm="taskman"'
        elif self.scope:
            headers["WWW-Authenticate"] = f'Bearer realm="taskman", error="insufficient_scope", scope="{self.scope}"'
        return headers

    @classmethod
    def of(cls, error: Exception, asked: str) -> Problem:
        """The problem that an exception is; what nobody expected of `asked` is logged and told as a plain 500."""
        if isinstance(error, TaskmanError):
            faults = error.faults if isinstance(error, InvalidInput) else ()
            return cls(status_of(error), error.code, str(error), faults, getattr(error, "scope", None))
        if isinstance(error, HTTPException):
            status = error.code or 500
            return cls(status, HTTPStatus(status).name.lower(), error.description or HTTPStatus(status).description)
        _log.error("unexpected error in %s", asked, exc_info=error)
        return cls(500, "internal", "something went wrong in the server; its log tells what, under this request id")


def problem(status: int, code: str, detail: str) -> Response:
    """A problem as the answer to the present request."""
    return _answer(Problem(status, code, detail))


def problem_of(error: Exception) -> Response:
    """An exception as the answer to the present request."""
    return _answer(Problem.of(error, f"{request.method} {request.path}"))


def _answer(found: Problem) -> Response:
    request_id: Any = request.scope.get("taskman.request_id")
    document = found.document(request_id)
    return Response(document, status=found.status, headers=found.headers)
