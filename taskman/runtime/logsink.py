"""The log of an attempt on its way to the store: lines gathered into chunks, flushed soon, bounded everywhere."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator

import trio

from ..errors import StoreError
from ..model.loglines import MAX_LINE, split_complete
from ..store.logs import Chunk

__all__ = ["LogSink"]

FLUSH_S = 0.1
PARTIAL_S = 1.0
REPEAT_S = 0.5
SEND_BYTES = 256 * 1024
HIGH_WATER = 512 * 1024
# What a piece of output costs beside its bytes, about: a flood of pieces of a few bytes must not count as nothing.
_PIECE_BYTES = 64

Send = Callable[[list[Chunk]], Awaitable[bool]]
Position = Callable[[], Awaitable[tuple[int, int]]]
"""Asks how far a log has come: the seq of its last chunk, and the number of the line behind it."""


class LogSink:
    """Takes output, delivers chunks through `send`; `send` answers False when nobody wants them any more.

    Whole lines leave within 0.1 s, the beginning of a line after a second of silence. How much of a log is kept is
    the store's business: see lua/append_log.lua. Only what is written faster than it is delivered, by a writer that
    does not wait, is left out, with a line that says so in its place.
    """

    def __init__(
        self, send: Send, *, on_output: Callable[[], None] | None = None, position: Position | None = None
    ) -> None:
        """`on_output` is called at each piece of output. With a `position` it goes on with a log, else begins one."""
        self._send, self._position = send, position
        self._on_output = on_output or _nothing
        self._waiting: deque[tuple[int, str, bytearray]] = deque()
        self._tails: dict[str, bytearray] = {}
        self._size = self._left_out = 0
        self._seq, self._line = 1, 1
        self._waiting_since = self._written_at = 0.0
        self._changed, self._drained = trio.Event(), trio.Event()
        self._closing = self._unwanted = self._held_up = False
        self.delivered = trio.Event()

    def write(self, stream: str, data: bytes) -> None:
        """Take output without waiting. Beyond the bound of what may wait, it is left out and counted."""
        self._on_output()
        if self._unwanted or self._size > 8 * HIGH_WATER:
            self._left_out += len(data)
            return
        self._note_left_out()
        self._size += len(data)
        self._written_at = trio.current_time()
        whole, rest = split_complete(self._tails.pop(stream, bytearray()) + data)
        self._queue(stream, whole)
        if rest:
            self._tails[stream] = bytearray(rest)
        self._changed.set()

    def _note_left_out(self) -> None:
        if self._left_out:
            self._flush_tails()
            note = f"left out here: {self._left_out:,} bytes that could not be stored in time\n"
            self._size += len(note)
            self._queue("sys", note.encode())
            self._left_out = 0

    async def output(self, stream: str, data: bytes) -> None:
        """Take output, and wait while too much of it waits: this slows the process that writes it.

        Cancellation: the data has been taken.
        """
        self.write(stream, data)
        while self._size > HIGH_WATER and not self._unwanted:
            self._held_up = True
            self._drained = trio.Event()
            await self._drained.wait()

    def close(self) -> None:
        """Nothing more will be written: `run` delivers what is left, and returns."""
        self._flush_tails()
        self._note_left_out()
        self._closing = True
        self._changed.set()

    async def run(self) -> None:
        """Deliver until closed and empty. Cancellation drops what is left."""
        try:
            if self._position is not None:
                seq, self._line = await self._position()
                self._seq = seq + 1
            while self._waiting or not self._closing:
                await self._wait()
                if not self._waiting and trio.current_time() >= self._written_at + PARTIAL_S:
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
        if self._closing:
            return -math.inf
        if self._waiting:
            return -math.inf if self._size >= MAX_LINE else self._waiting_since + FLUSH_S
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
        self._size += _PIECE_BYTES

    async def _deliver(self) -> None:
        chunks: list[Chunk] = []
        weight = 0
        while self._waiting:
            at_ms, stream, data = self._waiting.popleft()
            self._size -= _PIECE_BYTES
            for piece in _pieces(bytes(data)):
                chunks.append(self._chunk(at_ms, stream, piece))
                weight += _PIECE_BYTES + len(piece)
                if weight >= SEND_BYTES:
                    await self._hand_over(chunks)
                    chunks, weight = [], 0
        await self._hand_over(chunks)
        if self._held_up:
            self._held_up, self._written_at = False, trio.current_time()  # it was we who kept the writer silent
        self._drained.set()

    def _chunk(self, at_ms: int, stream: str, piece: bytes) -> Chunk:
        chunk = Chunk(self._seq, at_ms, stream, self._line, piece)
        self._seq += 1
        self._line += piece.count(b"\n") + (not piece.endswith(b"\n"))
        return chunk

    async def _hand_over(self, chunks: list[Chunk]) -> None:
        size = sum(len(chunk.data) for chunk in chunks)
        while chunks and not self._unwanted:
            try:
                self._unwanted = not await self._send(chunks)
                break
            except StoreError:  # a full Redis takes no more log: hold what there is room for, but hold up nobody
                if self._closing or self._size > HIGH_WATER:
                    self._left_out += size
                    break
            await self._wait_to_repeat()
        self._size -= size

    async def _wait_to_repeat(self) -> None:
        repeat_at = trio.current_time() + REPEAT_S
        while not self._closing and self._size <= HIGH_WATER and trio.current_time() < repeat_at:
            self._changed = trio.Event()
            with trio.move_on_at(repeat_at):
                await self._changed.wait()


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
