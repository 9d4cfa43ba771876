"""Logs in Redis: chunks of an attempt's output, appended once and in order, read from any point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .connection import Connection
from .keys import Keys
from .scripts import load_script

__all__ = ["Chunk", "Logs"]

_HIGHEST = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some output: `seq` counts chunks from 1, `first_line` is the number of its first line, both in the attempt."""

    seq: int
    at_ms: int
    stream: str
    first_line: int
    data: bytes


class Logs:
    """The logs of one shard. Every call: StoreUnavailable when Redis cannot be reached."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection, self._keys = connection, keys

    def channel(self, run_id: str) -> str:
        """The channel that tells of new chunks (`attempt-seq`) and of the run's end (`end`); hints only."""
        return self._keys.log(run_id)

    async def append(self, run_id: str, attempt: int, worker: str, chunks: Sequence[Chunk], *, now_ms: int = 0) -> bool:
        """Append chunks to the log of an attempt. False when the attempt is no longer this worker's.

        Safe to repeat: what is stored already is left out. Source: lua/append_log.lua.
        """
        flat = [part for one in chunks for part in (one.seq, one.at_ms, one.stream, one.first_line, one.data)]
        arguments = [now_ms, run_id, attempt, worker, *flat]
        last = await self._connection.script(load_script("append_log"), [self._keys.prefix], arguments)
        return int(last) >= 0

    async def read(self, run_id: str, attempt: int, after_seq: int = 0, limit: int = 100) -> list[Chunk]:
        """At most `limit` chunks of the attempt after `after_seq`, in order."""
        bounds = (f"({attempt}-{after_seq}" if after_seq else f"{attempt}-0", f"{attempt}-{_HIGHEST}")
        reply = await self._connection.execute("XRANGE", self._keys.log(run_id), *bounds, "COUNT", limit)
        return [_parse(entry_id, fields) for entry_id, fields in reply]

    async def line_before_tail(self, run_id: str, attempt: int, lines: int) -> int:
        """The number of the line before the last `lines` lines; 0 when there are no more than those."""
        newest = await self._newest(run_id, attempt)
        if newest is None:
            return 0
        last = newest.first_line + newest.data.count(b"\n") - newest.data.endswith(b"\n")
        return max(0, last - lines)

    async def seq_before_line(self, run_id: str, attempt: int, line: int) -> int:
        """The seq after which reading finds `line`, by bisection; 0 for the start."""
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
        bounds = (f"{attempt}-{_HIGHEST}", f"{attempt}-0")
        reply = await self._connection.execute("XREVRANGE", self._keys.log(run_id), *bounds, "COUNT", 1)
        return _parse(*reply[0]) if reply else None


def _parse(entry_id: bytes, fields: Sequence[bytes]) -> Chunk:
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    seq = int(entry_id.partition(b"-")[2])
    return Chunk(seq, int(values[b"t"]), values[b"s"].decode(), int(values[b"l"]), values[b"b"])
