"""The shortest way to a run: `POST /api/v1/runs` with a token, answered without the framework.

Quart takes a third of a millisecond for each request, more than all the rest of a submit. What is not plainly such a
request (no token, no length, another content type, a long body) goes on to the app untouched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import trio
from werkzeug.exceptions import RequestTimeout

from . import actions
from .api.bodies import digests_of, trigger_by, whole_json
from .api.runs import created
from .asgi import App, Receive, Scope, Send
from .auth import by_token, check_scope
from .problems import Problem
from .scopes import SCOPES
from .services import Services

__all__ = ["Express"]

PATH = "/api/v1/runs"
JSON = "application/json"
MOST_BYTES = 64 * 1024
BODY_S = 60.0
_ONCE = frozenset({b"authorization", b"content-type", b"content-length", b"idempotency-key", b"user-agent"})
_NEVER = frozenset({b"transfer-encoding", b"content-encoding", b"expect"})

_NEEDED = SCOPES[f"POST {PATH}"]

Headers = Mapping[bytes, bytes]


class Express:
    """ASGI middleware between the guard and the app. Cancellation: passed on; a run may have been created."""

    def __init__(self, app: App, services: Services) -> None:
        self._app, self._services = app, services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _plain_headers(scope)
        if headers is None:
            await self._app(scope, receive, send)
            return
        try:
            body = await _whole_body(receive)
            if body is None:
                return
            reply, status, more = await self._create(headers, body)
            document, told = json.dumps(reply, separators=(",", ":")).encode(), {"Content-Type": JSON, **more}
        except Exception as error:  # as in the app, whatever goes wrong is told as a problem
            problem = Problem.of(error, f"POST {PATH}")
            status, told = problem.status, problem.headers
            document = problem.document(scope.get("taskman.request_id"))
        await _answer(send, status, told, document)

    async def _create(self, headers: Headers, body: bytes) -> tuple[dict[str, Any], int, dict[str, str]]:
        who = await by_token(self._services, headers[b"authorization"].decode("latin-1"))
        check_scope(who, _NEEDED)
        key = headers.get(b"idempotency-key")
        made = await actions.create_run(
            self._services,
            whole_json(body),
            by=who.by,
            trigger=trigger_by(headers.get(b"user-agent", b"").decode("latin-1")),
            idempotency=None if key is None else digests_of(key.decode("latin-1"), who.by, PATH, body),
        )
        return created(*made)


def _plain_headers(scope: Scope) -> Headers | None:
    """The headers of a request that is plainly a submit by token; None for any other."""
    if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST" or scope["query_string"]:
        return None
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in _NEVER or (name in found and name in _ONCE):
            return None
        found[name] = value
    if not found.get(b"authorization") or found.get(b"content-type") != JSON.encode():
        return None
    length = found.get(b"content-length", b"")
    return found if length.isdigit() and int(length) <= MOST_BYTES else None


async def _whole_body(receive: Receive) -> bytes | None:
    """The body, whose length the protocol holds to what was announced; None when the client has gone."""
    parts: list[bytes] = []
    with trio.move_on_after(BODY_S):
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                return b"".join(parts)
    raise RequestTimeout(f"the body did not come within {BODY_S:.0f} s")


async def _answer(send: Send, status: int, headers: Mapping[str, str], document: bytes) -> None:
    encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    encoded.append((b"content-length", b"%d" % len(document)))
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": document})
