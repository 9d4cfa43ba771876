"""The log of an attempt on its way to the store: lines gathered into chunks, flushed soon, bounded everywhere."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator

import trio

from ..model.loglines import MAX_LINE, split_complete
from ..store.logs import Chunk

__all__ = ["LogSink"]

FLUSH_S = 0.1
PARTIAL_S = 1.0
SEND_BYTES = 256 * 1024
HIGH_WATER = 512 * 1024
LIMIT_BYTES = 16 * 1024 * 1024
_MIB = 1024 * 1024

Send = Callable[[list[Chunk]], Awaitable[bool]]


class LogSink:
    """Takes output, delivers chunks through `send`; `send` answers False when nobody wants them any more.

    Whole lines leave within 0.1 s, the beginning of a line after a second of silence. What is beyond `limit`
    bytes is counted and left out, with a line that says so at the end.
    """

    def __init__(self, send: Send, *, limit: int = LIMIT_BYTES, on_first: Callable[[], None] | None = None) -> None:
        """`on_first` is called at the first output: a run that prints nothing then costs no task that delivers."""
        self._send, self._limit = send, limit
        self._on_first: Callable[[], None] | None = on_first
        self._waiting: deque[tuple[int, str, bytearray]] = deque()
        self._tails: dict[str, bytearray] = {}
        self._size = self._taken = self.left_out = 0
        self._seq, self._line = 1, 1
        self._waiting_since = self._written_at = 0.0
        self._changed, self._drained = trio.Event(), trio.Event()
        self._closing = self._unwanted = False
        self.delivered = trio.Event()
        self.on_output: Callable[[], None] = _nothing

    def write(self, stream: str, data: bytes) -> None:
        """Take output without waiting. Beyond the bound of what may wait, it is left out and counted."""
        if self._on_first is not None:
            start, self._on_first = self._on_first, None
            start()
        self.on_output()
        room = self._room()
        self.left_out += max(0, len(data) - room)
        data = data[:room]
        self._taken += len(data)
        self._size += len(data)
        self._written_at = trio.current_time()
        whole, rest = split_complete(self._tails.pop(stream, bytearray()) + data)
        self._queue(stream, whole)
        if rest:
            self._tails[stream] = bytearray(rest)
        self._changed.set()

    def _room(self) -> int:
        if self._unwanted or self._size > 8 * HIGH_WATER:
            return 0
        return max(0, self._limit - self._taken)

    async def output(self, stream: str, data: bytes) -> None:
        """Take output, and wait while too much of it waits: this slows the process that writes it.

        Cancellation: the data has been taken.
        """
        self.write(stream, data)
        while self._size > HIGH_WATER and not self._unwanted:
            self._drained = trio.Event()
            await self._drained.wait()

    @property
    def is_used(self) -> bool:
        """Whether there was any output."""
        return self._on_first is None

    def close(self) -> None:
        """Nothing more will be written: `run` delivers what is left, and returns."""
        self._flush_tails()
        if self.left_out and not self._closing:
            note = f"the log is full: {self.left_out:,} bytes more were not kept (limit {self._limit / _MIB:g} MiB)\n"
            self._queue("sys", note.encode())
        self._closing = True
        self._changed.set()

    async def run(self) -> None:
        """Deliver until closed and empty. Cancellation drops what is left."""
        try:
            while self._waiting or not self._closing:
                await self._wait()
                if trio.current_time() >= self._written_at + PARTIAL_S:
                    self._flush_tails()
                await self._deliver()
        finally:
            self.delivered.set()

    async def _wait(self) -> None:
        while (ready_at := self._ready_at()) > trio.current_time():
            self._changed = trio.Event()
            with trio.move_on_at(ready_at):
                await self._changed.wait()

    def _ready_at(self) -> float:
        if self._closing or self._size >= MAX_LINE:
            return -math.inf
        if self._waiting:
            return self._waiting_since + FLUSH_S
        return self._written_at + PARTIAL_S if self._tails else math.inf

    def _flush_tails(self) -> None:
        for stream, tail in self._tails.items():
            self._queue(stream, bytes(tail))
        self._tails.clear()

    def _queue(self, stream: str, data: bytes) -> None:
        if not data:
            return
        if self._waiting and self._waiting[-1][1] == stream:
            self._waiting[-1][2].extend(data)
            return
        if not self._waiting:
            self._waiting_since = trio.current_time()
        self._waiting.append((time.time_ns() // 1_000_000, stream, bytearray(data)))

    async def _deliver(self) -> None:
        chunks: list[Chunk] = []
        while self._waiting:
            at_ms, stream, data = self._waiting.popleft()
            chunks += [self._chunk(at_ms, stream, piece) for piece in _pieces(bytes(data))]
            if sum(len(chunk.data) for chunk in chunks) >= SEND_BYTES:
                await self._hand_over(chunks)
                chunks = []
        await self._hand_over(chunks)
        self._drained.set()

    def _chunk(self, at_ms: int, stream: str, piece: bytes) -> Chunk:
        chunk = Chunk(self._seq, at_ms, stream, self._line, piece)
        self._seq += 1
        self._line += piece.count(b"\n") + (not piece.endswith(b"\n"))
        return chunk

    async def _hand_over(self, chunks: list[Chunk]) -> None:
        if chunks and not self._unwanted:
            self._unwanted = not await self._send(chunks)
        self._size -= sum(len(chunk.data) for chunk in chunks)


def _nothing() -> None:
    """What to do at each output, unless somebody watches for silence."""


def _pieces(data: bytes) -> Iterator[bytes]:
    """Cut into pieces of at most 16 KiB, at line ends where there are any."""
    start = 0
    while len(data) - start > MAX_LINE:
        end = data.rfind(b"\n", start, start + MAX_LINE) + 1
        if end <= start:
            whole, _ = split_complete(data[start : start + MAX_LINE])
            end = start + (len(whole) or MAX_LINE)
        yield data[start:end]
        start = end
    if start < len(data):
        yield data[start:]
