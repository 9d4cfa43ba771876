"""Serves an ASGI app under Trio, and stops serving it in order."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import cast

import trio
from hypercorn.trio.lifespan import Lifespan
from hypercorn.typing import AppWrapper

from ..garbage import settle_garbage_collector
from .asgi import App, Receive, Scope, Send, sole_error
from .connection import Limits, Service
from .drain import Drain
from .listening import bound_urls

__all__ = ["serve", "settle_garbage_collector"]

log = logging.getLogger("taskman.web")


async def serve(
    app: App,
    sockets: Sequence[socket.socket],
    drain: Drain,
    *,
    grace_s: float = 5.0,
    limits: Limits | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests on `sockets` until `drain` starts and the last answer has been given.

    After that nothing is accepted, idle connections are closed, requests under way get `grace_s` to finish, and what
    is left is cancelled. The sockets are closed in any case.
    Cancellation: ends at once; connections with an unfinished answer are reset, the app's shutdown does not run.
    Started with: the URLs of the sockets.
    """
    service = Service(app, limits or Limits())
    lifespan = Lifespan(cast(AppWrapper, partial(_live, app)), service.config, service.state)
    with ExitStack() as stack:
        for sock in sockets:
            stack.enter_context(sock)
        async with trio.open_nursery() as nursery:
            await nursery.start(lifespan.handle_lifespan)
            with suppress(trio.ClosedResourceError):  # an app without a lifespan has returned from it
                await lifespan.wait_for_startup()
            await _accept(service, sockets, drain, grace_s, task_status)
            with suppress(trio.ClosedResourceError):
                await lifespan.wait_for_shutdown()
            nursery.cancel_scope.cancel()


async def _accept(
    service: Service,
    sockets: Sequence[socket.socket],
    drain: Drain,
    grace_s: float,
    task_status: trio.TaskStatus[list[str]],
) -> None:
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in sockets]
    async with trio.open_nursery() as connections:
        accept = partial(trio.serve_listeners, service.handle, listeners, handler_nursery=connections)
        async with trio.open_nursery() as accepting:
            await accepting.start(accept)
            task_status.started(bound_urls(sockets))
            await drain.wait()
            accepting.cancel_scope.cancel()
        await service.wind_down()
        connections.cancel_scope.deadline = trio.current_time() + grace_s


async def _live(app: App, scope: Scope, receive: Receive, send: Send, *_: object) -> None:
    # Hypercorn goes on without a word when this part of the app crashes.
    try:
        await app(scope, receive, send)
    except Exception as error:
        log.error("the app's lifespan ended with an error", exc_info=sole_error(error))
        raise
