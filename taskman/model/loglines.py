"""Log lines: how output becomes numbered lines. Bytes are kept as they came; text is for display only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .instants import format_instant

__all__ = ["MAX_LINE", "LogLine", "split_complete", "split_lines"]

MAX_LINE = 16_384


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line: its number in the attempt, when and where it came out. `partial`: no newline followed it.

    `missing`: it stands for so many lines that were left out, and has the number of the last of them.
    """

    line: int
    at_ms: int
    stream: str
    data: bytes
    partial: bool = False
    missing: int = 0

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", errors="replace")

    def to_json(self, attempt: int) -> dict[str, Any]:
        """As the API shows it; `partial` and `missing` only where they say something."""
        shown: dict[str, Any] = {
            "line": self.line,
            "at": format_instant(self.at_ms),
            "stream": self.stream,
            "text": self.text,
            "attempt": attempt,
        }
        if self.partial:
            shown["partial"] = True
        if self.missing:
            shown["missing"] = self.missing
        return shown


def split_lines(first_line: int, at_ms: int, stream: str, data: bytes) -> Iterator[LogLine]:
    """The lines of a chunk: one for each newline, and one for what follows the last."""
    pieces = data.split(b"\n")
    rest = pieces.pop()
    for number, piece in enumerate(pieces, first_line):
        yield LogLine(number, at_ms, stream, piece)
    if rest:
        yield LogLine(first_line + len(pieces), at_ms, stream, rest, partial=True)


def split_complete(data: bytes | bytearray) -> tuple[bytes, bytes]:
    """Split output into what can be stored now and what waits for the rest of its line.

    Whole lines can go; of a line longer than MAX_LINE so far, a piece that cuts no UTF-8 character.
    """
    end = data.rfind(b"\n") + 1
    if len(data) - end >= MAX_LINE:
        end = _before_split_character(data, len(data))
    return bytes(data[:end]), bytes(data[end:])


def _before_split_character(data: bytes | bytearray, end: int) -> int:
    for back in range(1, min(4, end) + 1):
        byte = data[end - back]
        if byte & 0xC0 == 0x80:
            continue
        width = 1 + (byte >= 0xC0) + (byte >= 0xE0) + (byte >= 0xF0)
        return end - back if width > back else end
    return end
