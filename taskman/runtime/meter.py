"""The progress of an attempt on its way to the store: the newest wins, at most a few a second."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from ..model.progress import Progress

__all__ = ["ProgressMeter"]

PACE_S = 0.25
REPEAT_S = 2.0
LAST_S = 2.0

Send = Callable[[Progress], Awaitable[bool]]


class ProgressMeter:
    """Takes reports without waiting, and passes on what is the newest: at once, then four times a second at most.

    `send` answers False when nobody could be told; it is asked again, two seconds later.
    """

    def __init__(self, send: Send, start_sender: Callable[[], None]) -> None:
        """`start_sender` starts `run` in a nursery; only a task that reports costs one, and only while it does."""
        self._send, self._start_sender = send, start_sender
        self._newest: Progress | None = None
        self._ended: trio.Event | None = None  # of the sender that is under way
        self._closing: trio.Event | None = None

    def report(self, progress: Progress) -> None:
        """Take how far the task has come; in place of what has not been sent yet."""
        self._newest = progress
        if self._ended is None:
            self._ended, self._closing = trio.Event(), trio.Event()
            self._start_sender()

    async def run(self) -> None:
        """Send until nothing has been new for a while. Cancellation drops what is left."""
        ended, closing = self._ended, self._closing
        assert ended is not None
        assert closing is not None
        try:
            while self._newest is not None:
                pause_s = await self._send_newest()
                if closing.is_set():
                    break
                with trio.move_on_after(pause_s):
                    await closing.wait()
        finally:
            self._ended = None
            ended.set()

    async def _send_newest(self) -> float:
        """How long to wait before the next."""
        progress, self._newest = self._newest, None
        assert progress is not None
        if await self._send(progress):
            return PACE_S
        self._newest = self._newest or progress
        return REPEAT_S

    async def finish(self) -> None:
        """Nothing more will be reported: what was reported last leaves now. Waits two seconds for it at most."""
        if self._ended is not None and self._closing is not None:
            self._closing.set()
            with trio.move_on_after(LAST_S):
                await self._ended.wait()
