"""The body of a response that goes on for long, and ends when it should."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

import trio
from quart.wrappers.response import ResponseBody

from .auth import Rights
from .drain import Drain

__all__ = ["StreamBody"]

Piece = TypeVar("Piece")


class StreamBody(ResponseBody):
    """Pieces of a body until the source has no more; a drain of the server and the end of its reader's rights wake it.

    A class, not a generator: Quart-Trio cancels at any point, and no scope may be open across a yield.
    Cancellation: passed on; the source is closed when the response is left.
    """

    def __init__(self, drain: Drain, rights: Rights | None) -> None:
        self._drain, self._rights = drain, rights
        self._waiting = trio.CancelScope()

    async def __aenter__(self) -> Self:
        self._drain.watch(self._interrupt)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drain.unwatch(self._interrupt)
        self._close()

    def __aiter__(self) -> Self:
        return self

    @abstractmethod
    async def __anext__(self) -> bytes:
        """The next piece."""

    @abstractmethod
    def _close(self) -> None:
        """The reader has gone."""

    async def _is_welcome(self) -> bool:
        return self._rights is None or await self._rights.last()

    async def _next(self, receive: Callable[[], Awaitable[Piece]], within_s: float) -> Piece | None:
        """What the source has next; None when nothing came in time, or the drain has started."""
        if not self._drain.started:
            with trio.move_on_after(within_s) as self._waiting:
                try:
                    return await receive()
                except trio.EndOfChannel:
                    raise StopAsyncIteration from None
        return None

    def _interrupt(self) -> None:
        self._waiting.cancel()
