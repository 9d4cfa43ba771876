"""The log as pages show it: in blocks of lines, so that the browser lays out only what is in view."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import trio

from ...model.instants import datetime_of
from ...model.loglines import LogLine
from ...model.run import Run
from ...store.store import Store
from ..logs import LogReader, Position, lines_of

__all__ = ["Block", "LogView", "block_number", "blocks_of", "clock", "log_view"]

BLOCK = 500


@dataclass(frozen=True, slots=True)
class Block:
    """Lines of one attempt whose numbers share a block."""

    number: int
    lines: Sequence[LogLine]


@dataclass(frozen=True, slots=True)
class LogView:
    """Some lines of an attempt: those after line `skipped` up to line `last`."""

    attempt: int
    skipped: int
    last: int
    blocks: Sequence[Block]
    has_more: bool = False

    @property
    def position(self) -> str:
        """Where a stream goes on."""
        return f"{self.attempt}-{self.last}"


def block_number(line: int) -> int:
    """The block of a line."""
    return (line - 1) // BLOCK


def blocks_of(lines: Iterable[LogLine]) -> list[Block]:
    """The lines in blocks."""
    return [Block(number, list(some)) for number, some in groupby(lines, lambda line: block_number(line.line))]


def clock(at_ms: int) -> str:
    """When a line came out, on the clock of UTC."""
    return datetime_of(at_ms).strftime("%H:%M:%S.%f")[:-3]


async def log_view(store: Store, run: Run, attempt: int, *, tail: int | None, until: int | None = None) -> LogView:
    """The last `tail` lines (all for None) of an attempt, or of its first `until` lines. Raises StoreUnavailable."""
    skipped = 0
    if tail is not None and until is None:
        skipped = await store.logs.line_before_tail(run.id, attempt, tail)
    elif tail is not None and until is not None:
        skipped = max(0, until - tail)
    reader = await LogReader(store, run, Position(attempt, skipped), follow=False).open()
    lines: list[LogLine] = []
    while until is None or not lines or lines[-1].line < until:
        try:
            lines += lines_of(await reader.receive())
        except trio.EndOfChannel:
            break
    shown = [line for line in lines if until is None or line.line <= until]
    if shown and shown[0].missing:
        skipped = min(skipped, shown[0].line - shown[0].missing)  # what is earlier begins before the hole
    last = shown[-1].line if shown else skipped
    return LogView(attempt, skipped, last, blocks_of(shown), has_more=bool(until))
