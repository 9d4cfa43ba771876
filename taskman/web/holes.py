"""Holes in a log: what was left out between two chunks, noticed by a reader and said in a line of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..store.logs import Chunk, End

__all__ = ["Hole", "Trail"]


@dataclass(frozen=True, slots=True)
class Hole(Chunk):
    """Stands where chunks are missing: one line of the stream `sys`, with the number of the last one missing.

    `breaks`: the line before it has no newline.
    """

    missing: int = 0
    breaks: bool = False


class Trail:
    """How far a reader has come in an attempt, in bytes and lines: a chunk further on follows a hole."""

    def __init__(self) -> None:
        """At the start of the attempt."""
        self.offset, self.line = 0, 1
        self._breaks = False

    @classmethod
    def before(cls, chunk: Chunk) -> Trail:
        """Right before a chunk, whatever comes before that."""
        trail = cls()
        trail.offset, trail.line = chunk.offset, chunk.first_line
        return trail

    def follow(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """The chunks, with a Hole in each place where something is missing."""
        shown: list[Chunk] = []
        for chunk in chunks:
            if chunk.offset > self.offset:
                shown.append(self._hole(End(chunk.offset, chunk.first_line, chunk.at_ms), chunk.seq - 1))
            shown.append(chunk)
            self.offset, self.line = chunk.end_offset, chunk.end_line
            self._breaks = not chunk.data.endswith(b"\n")
        return shown

    def follow_to(self, end: End) -> list[Chunk]:
        """What follows the last chunk that remains of an attempt which went as far as `end`: a Hole, or nothing."""
        if end.offset <= self.offset:
            return []
        hole = self._hole(end, 0)
        self.offset, self.line = end.offset, end.line
        return [hole]

    def _hole(self, end: End, seq: int) -> Hole:
        lines, size = end.line - self.line, end.offset - self.offset
        text = (
            f"left out here: {size:,} bytes in {lines:,} lines ({self.line:,} to {end.line - 1:,}),"
            " the log is longer than its limit\n"
        )
        return Hole(seq, end.at_ms, "sys", end.line - 1, text.encode(), missing=lines, breaks=self._breaks)
