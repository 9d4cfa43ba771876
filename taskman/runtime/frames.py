"""What a session and a link need of a connection: frames, whole and in order. The web server has one kind, a worker's
socket another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import trio

__all__ = ["Frames", "Peer"]


class Frames(Protocol):
    """One connection that carries frames both ways."""

    async def receive(self) -> bytes:
        """The next frame. Raises: LinkLost when there is none to come, ProtocolViolation when it is too large."""
        ...

    async def send(self, frame: bytes) -> None:
        """Hand a frame over; waits while the other side does not take it. Raises: LinkLost."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Say why, and close. Never raises; bounded."""
        ...


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end: an address to show, and whose token came with the connection.

    `ended` returns when that token is valid no more.
    """

    address: str
    owner: str
    ended: Callable[[], Awaitable[None]] = trio.sleep_forever
