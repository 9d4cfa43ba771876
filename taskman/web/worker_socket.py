"""`/api/v1/worker`: the WebSocket of remote workers, in front of the web application and independent of it.

Host and Origin have been checked by the guard; the token and the subprotocol are checked here, before the upgrade.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Protocol

import trio
from werkzeug.exceptions import BadRequest

from ..errors import LinkLost, ProtocolViolation
from ..model.token import Scope as Needed
from .access import Identity
from .asgi import App, Receive, Scope, Send
from .auth import by_token, check_scope
from .problems import Problem
from .services import Services
from .websocket import TOO_BIG

__all__ = ["PATH", "SUBPROTOCOL", "WorkerSocket"]

PATH = "/api/v1/worker"
SUBPROTOCOL = "taskman.v1"


class Frames(Protocol):
    """Frames of one connection, as a server of workers wants them."""

    async def receive(self) -> bytes: ...
    async def send(self, frame: bytes) -> None: ...
    async def close(self, code: int, reason: str) -> None: ...


class Serve(Protocol):
    """What serves the connections: `address` is the worker's, `owner` names the token that it came with, and `ended`
    returns when that is valid no more."""

    async def __call__(
        self, frames: Frames, address: str, owner: str, ended: Callable[[], Awaitable[None]]
    ) -> None: ...


class WorkerSocket:
    """ASGI middleware: takes the WebSockets of workers, lets everything else pass to `app`."""

    def __init__(self, app: App, services: Services, serve: Serve) -> None:
        self._app, self._services, self._serve = app, services, serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] != PATH:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            detail = f"workers connect here by WebSocket, with the subprotocol {SUBPROTOCOL}"
            problem = Problem(HTTPStatus.UPGRADE_REQUIRED, "upgrade_required", detail)
            await _refuse(scope, send, problem, {"Upgrade": "websocket", "Connection": "upgrade"})
        else:
            await self._open(scope, receive, send)

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (await receive())["type"] != "websocket.connect":
            return
        try:
            who = await by_token(self._services, _header(scope, b"authorization"))
            check_scope(who, Needed.WORKER)
            if SUBPROTOCOL not in scope["subprotocols"]:
                raise BadRequest(f"ask for the subprotocol {SUBPROTOCOL}: this server speaks no other with workers")
        except Exception as error:  # as everywhere, whatever goes wrong is told as a problem
            await _refuse(scope, send, Problem.of(error, f"WebSocket {PATH}"))
            return
        await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL})
        await self._serve(_Frames(receive, send), _address(scope), who.id or who.by, partial(self._ended, who))

    async def _ended(self, who: Identity) -> None:
        """Return when the token is valid no more."""
        if who.id is None:
            await trio.sleep_forever()
        else:
            await self._services.access.wait_until_ended(who.id)


class _Frames:
    """The frames of an accepted WebSocket."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send

    async def receive(self) -> bytes:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            if message.get("code") == TOO_BIG:
                raise ProtocolViolation("a frame is larger than 4 MiB")
            raise LinkLost
        frame: bytes | None = message.get("bytes")
        if frame is None:
            raise ProtocolViolation("frames are binary MessagePack, not text")
        return frame

    async def send(self, frame: bytes) -> None:
        # Hypercorn drops what is sent to a client that has gone; whoever reads hears of that.
        await self._send({"type": "websocket.send", "bytes": frame})

    async def close(self, code: int, reason: str) -> None:
        await self._send({"type": "websocket.close", "code": code, "reason": reason[:100]})


async def _refuse(scope: Scope, send: Send, problem: Problem, more: Mapping[str, str] | None = None) -> None:
    """Answer with a problem document instead of the upgrade."""
    content = problem.document(scope.get("taskman.request_id"))
    headers = {"Content-Length": str(len(content)), **problem.headers, **(more or {})}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    kind = "http.response" if scope["type"] == "http" else "websocket.http.response"
    await send({"type": f"{kind}.start", "status": int(problem.status), "headers": encoded})
    await send({"type": f"{kind}.body", "body": content})


def _address(scope: Scope) -> str:
    host, port = (scope.get("client") or ("?", 0))[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _header(scope: Scope, wanted: bytes) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name.lower() == wanted), "")
