"""What an attempt tells while it works: its output and its progress, each made ready at the first piece of it."""

from __future__ import annotations

from collections.abc import Callable

import trio

from ..model.progress import Progress
from .logsink import LogSink, Position
from .logsink import Send as SendLog
from .meter import ProgressMeter
from .meter import Send as SendProgress

__all__ = ["Reports"]


class Reports:
    """Takes output and progress, and delivers both; a run that tells nothing shall cost nothing.

    `on_progress` is called with each report, also with those that the next one overtakes.
    """

    def __init__(self, send_log: SendLog, send_progress: SendProgress, nursery: trio.Nursery) -> None:
        """`nursery` is the worker's: there both are delivered while the task works."""
        self._send_log, self._send_progress, self._nursery = send_log, send_progress, nursery
        self._sink: LogSink | None = None
        self._meter: ProgressMeter | None = None
        self._on_life: Callable[[], None] | None = None
        self._is_over = False
        self._position: Position | None = None
        self.on_progress: Callable[[Progress], None] | None = None

    def watch(self, on_life: Callable[[], None]) -> None:
        """Call `on_life` at each sign of life, which is output or progress. To be called before there is any."""
        self._on_life = on_life

    def go_on(self, position: Position) -> None:
        """The log has begun already, and has come so far. To be called before there is any output."""
        self._position = position

    @property
    def sink(self) -> LogSink:
        """Where output goes."""
        if self._sink is None:
            self._sink = LogSink(self._send_log, on_output=self._on_life, position=self._position)
            self._nursery.start_soon(self._sink.run)
            if self._is_over:
                self._sink.close()
        return self._sink

    async def output(self, stream: str, data: bytes) -> None:
        """Take output of a process, and wait while too much of it waits. Cancellation: the data has been taken."""
        await self.sink.output(stream, data)

    def progress(self, progress: Progress) -> None:
        """Take how far the attempt has come; what is told after the end is nobody's business."""
        if self._is_over:
            return
        if self._on_life is not None:
            self._on_life()
        if self.on_progress is not None:
            self.on_progress(progress)
        if self._meter is None:
            self._meter = meter = ProgressMeter(self._send_progress, lambda: self._nursery.start_soon(meter.run))
        self._meter.report(progress)

    def close(self) -> None:
        """The attempt is over."""
        self._is_over = True
        if self._sink is not None:
            self._sink.close()

    async def deliver(self) -> None:
        """After `close`: return when all of it has been delivered, or the log is not wanted any more."""
        if self._meter is not None:
            await self._meter.finish()
        if self._sink is not None:
            await self._sink.delivered.wait()
