"""Blocks: many chunks of a log in one compressed piece. Pure; what comes out is what went in, to the byte."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["BLOCK_BYTES", "BLOCK_CHUNKS", "Chunk", "pack", "unpack"]

BLOCK_BYTES = 256 * 1024
BLOCK_CHUNKS = 512
_COUNT = struct.Struct(">I")
_HEAD = struct.Struct(">QQQQI8s")  # seq, at, first line, offset, bytes, stream


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some output: `seq` counts chunks from 1, `first_line` is the number of its first line, both in the attempt.

    `offset` is the number of bytes that came before it in the attempt; the store counts them.
    """

    seq: int
    at_ms: int
    stream: str
    first_line: int
    data: bytes
    offset: int = field(default=0, compare=False)

    @property
    def end_line(self) -> int:
        """The number of the line behind its last."""
        return self.first_line + self.data.count(b"\n") + (not self.data.endswith(b"\n"))

    @property
    def end_offset(self) -> int:
        """The offset of the byte behind its last."""
        return self.offset + len(self.data)


def pack(chunks: Sequence[Chunk]) -> bytes:
    """The chunks, compressed. Takes some 10 ms for a full block: call it in a thread."""
    heads = [
        _HEAD.pack(one.seq, one.at_ms, one.first_line, one.offset, len(one.data), one.stream.encode()) for one in chunks
    ]
    return zlib.compress(b"".join([_COUNT.pack(len(chunks)), *heads, *(one.data for one in chunks)]))


def unpack(block: bytes) -> list[Chunk]:
    """The opposite of pack."""
    plain = zlib.decompress(block)
    (count,) = _COUNT.unpack_from(plain)
    start = _COUNT.size + count * _HEAD.size
    chunks = []
    for index in range(count):
        seq, at_ms, line, offset, size, stream = _HEAD.unpack_from(plain, _COUNT.size + index * _HEAD.size)
        data = plain[start : start + size]
        chunks.append(Chunk(seq, at_ms, stream.rstrip(b"\0").decode(), line, data, offset))
        start += size
    return chunks
