"""Logs in Redis: chunks of an attempt's output, appended once and in order, read from any point.

The log of a final run is compacted: compressed blocks take the place of its chunks. Reading is the same for both.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from .blocks import BLOCK_BYTES, BLOCK_CHUNKS, Chunk, pack, unpack
from .connection import Connection
from .keys import Keys
from .replies import checked
from .shard import ShardPart

__all__ = ["DEFAULT_LIMIT", "Chunk", "End", "Logs"]

DEFAULT_LIMIT = 16 * 1024 * 1024
_HIGHEST = 2**64 - 1
_PAGE = 64
_CHUNKS_A_BLOCK = 16  # as many as there are in a block of a busy log

Entry = tuple[bytes, Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class End:
    """How far an attempt went whose end was cut out: the offset and the line behind its last chunk, and its time."""

    offset: int
    line: int
    at_ms: int


class Logs(ShardPart):
    """The logs of one shard; `limit` bytes of each run are kept. Every call: StoreUnavailable when Redis is away."""

    def __init__(self, connection: Connection, keys: Keys, limit: int = DEFAULT_LIMIT) -> None:
        super().__init__(connection, keys)
        self.limit = limit

    def channel(self, run_id: str) -> str:
        """The channel that tells of new chunks (`attempt-seq`) and of the run's end (`end`); hints only."""
        return self._keys.log(run_id)

    async def append(self, run_id: str, attempt: int, worker: str, chunks: Sequence[Chunk], *, now_ms: int = 0) -> bool:
        """Append chunks to the log of an attempt. False when the attempt is no longer this worker's.

        Beyond the limit, chunks between the first quarter and the latest ones go.
        Safe to repeat: what is stored already is left out. Source: lua/append_log.lua.
        """
        flat = [part for one in chunks for part in (one.seq, one.at_ms, one.stream, one.first_line, one.data)]
        return int(await self._script("append_log", run_id, attempt, worker, self.limit, *flat, now_ms=now_ms)) >= 0

    async def read(self, run_id: str, attempt: int, after_seq: int = 0, limit: int = 100) -> list[Chunk]:
        """The first `limit` chunks of the attempt after `after_seq`, in order; fewer when there are no more."""
        found: list[Chunk] = []
        while True:
            raw, blocks = await self._fetch(run_id, attempt, after_seq, limit - len(found))
            if raw or not blocks:
                return found + [_parse(*entry) for entry in raw]
            found += [chunk for _, fields in blocks for chunk in unpack(fields[1]) if chunk.seq > after_seq]
            if len(found) >= limit:
                return found[:limit]
            after_seq = found[-1].seq

    async def _fetch(self, run_id: str, attempt: int, after_seq: int, limit: int) -> tuple[list[Entry], list[Entry]]:
        """Entries of the log, and of its blocks: of a block the id is that of its last chunk, so one range finds both.

        In this order: a log that is compacted between the two is missing from the first, and found by the second.
        """
        bounds = (f"({attempt}-{after_seq}" if after_seq else f"{attempt}-0", f"{attempt}-{_HIGHEST}", "COUNT")
        log, blocks = self._keys.log(run_id), self._keys.blocks(run_id)
        commands = [("XRANGE", log, *bounds, limit), ("XRANGE", blocks, *bounds, 1 + limit // _CHUNKS_A_BLOCK)]
        raw, packed = map(checked, await self._connection.execute_many(commands))
        return raw, packed

    async def line_before_tail(self, run_id: str, attempt: int, lines: int) -> int:
        """The number of the line before the last `lines` lines; 0 when there are no more than those."""
        newest = await self._newest(run_id, attempt)
        return max(0, newest.end_line - 1 - lines) if newest else 0

    async def seq_before_line(self, run_id: str, attempt: int, line: int) -> int:
        """The seq after which reading finds `line`, by bisection; 0 for the start.

        Where that line was cut out, what comes before it is found.
        """
        newest = await self._newest(run_id, attempt)
        low, high = 0, newest.seq if newest else 0
        while low < high:
            middle = (low + high + 1) // 2
            found = await self.read(run_id, attempt, middle - 1, 1)
            if found and found[0].first_line <= line:
                low = middle
            else:
                high = middle - 1
        return max(0, low - 1)

    async def _newest(self, run_id: str, attempt: int) -> Chunk | None:
        bounds = (f"{attempt}-{_HIGHEST}", f"{attempt}-0", "COUNT", 1)
        commands = [("XREVRANGE", key, *bounds) for key in (self._keys.log(run_id), self._keys.blocks(run_id))]
        raw, blocks = map(checked, await self._connection.execute_many(commands))
        if raw:
            return _parse(*raw[0])
        return unpack(blocks[0][1][1])[-1] if blocks else None

    async def position(self, run_id: str, attempt: int) -> tuple[int, int]:
        """The seq of the last chunk of an attempt that runs (0: none yet), and the number of the line behind it."""
        newest = await self._newest(run_id, attempt)
        return (newest.seq, newest.end_line) if newest else (0, 1)

    async def end_of(self, run_id: str, attempt: int) -> End | None:
        """How far an attempt went whose end was cut out, because later attempts filled the log; else None."""
        reply = await self._connection.execute("HGET", self._keys.run(run_id), f"cut:{attempt}")
        return End(*map(int, reply.split())) if reply else None

    async def unpacked(self, limit: int = 16) -> list[str]:
        """Some final runs whose logs are not compacted yet, by chance: so many servers seldom take the same ones."""
        return [one.decode() for one in await self._connection.execute("SRANDMEMBER", self._keys.unpacked, limit)]

    async def compact(self, run_id: str) -> bool:
        """Put blocks in the place of a final run's chunks. False when it was done already, or cannot be done.

        Cancellation: the log is as it was, or compacted. Source: lua/compact_log.lua.
        """
        arguments: list[Any] = []
        count, last = 0, "0-0"
        async with aclosing(self._parts_of(run_id)) as parts:
            async for entries in parts:
                last, chunks = entries[-1][0].decode(), [_parse(*entry) for entry in entries]
                count += len(entries)
                arguments += [last, await trio.to_thread.run_sync(partial(pack, chunks))]
        return bool(await self._script("compact_log", run_id, count, last, *arguments))

    async def _parts_of(self, run_id: str) -> AsyncGenerator[list[Entry], None]:
        """The entries of the whole log in parts of a block's size, none with more than one attempt."""
        part: list[Entry] = []
        size, last = 0, "0-0"
        while entries := await self._connection.execute(
            "XRANGE", self._keys.log(run_id), f"({last}", "+", "COUNT", _PAGE
        ):
            for entry in entries:
                if part and (size >= BLOCK_BYTES or len(part) >= BLOCK_CHUNKS or _attempt(part[0]) != _attempt(entry)):
                    yield part
                    part, size = [], 0
                part.append(entry)
                size += len(entry[1][-1])
            last = entries[-1][0].decode()
        if part:
            yield part


def _attempt(entry: Entry) -> bytes:
    return entry[0].partition(b"-")[0]


def _parse(entry_id: bytes, fields: Sequence[bytes]) -> Chunk:
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    seq = int(entry_id.partition(b"-")[2])
    return Chunk(seq, int(values[b"t"]), values[b"s"].decode(), int(values[b"l"]), values[b"b"], int(values[b"o"]))
