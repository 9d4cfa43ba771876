"""Progress: how far an attempt says it has come."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from .instants import format_instant

__all__ = ["MESSAGE_LIMIT", "Progress"]

MESSAGE_LIMIT = 500


@dataclass(frozen=True, slots=True)
class Progress:
    """So much `done` of `total`, in a unit of the task's own; without a total nobody knows how much is left.

    `at_ms` is when the store heard of it, 0 before that.
    """

    done: float
    total: float | None = None
    message: str | None = None
    at_ms: int = 0

    @classmethod
    def checked(cls, done: float, total: float | None = None, message: str | None = None) -> Progress:
        """What a task reports; a message is cut after 500 characters. Raises ValueError, TypeError with the remedy."""
        for name, value in (("done", done), ("total", total)):
            if value is None and name == "total":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"progress: '{name}' is {value!r}, it must be a number")
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"progress: '{name}' is {value!r}, it must be a number from 0 up")
        if message is not None and not isinstance(message, str):
            raise TypeError(f"progress: 'message' is {message!r}, it must be a text")
        words = message[:MESSAGE_LIMIT].encode(errors="backslashreplace").decode() if message else None
        return cls(done, total, words)

    def to_document(self) -> str:
        """Compact JSON, without the time."""
        return json.dumps([self.done, self.total, self.message], separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_field(cls, field: str) -> tuple[int, Progress]:
        """The number of the attempt, and its progress, as lua/progress.lua keeps them: `attempt ms document`."""
        attempt, at_ms, document = field.split(" ", 2)
        done, total, message = json.loads(document)
        return int(attempt), cls(done, total, message, int(at_ms))

    @property
    def percent(self) -> int | None:
        """0 to 100, rounded down so that 100 means all of it; None without a total, or with a total of nothing."""
        return None if not self.total else min(100, math.floor(100 * self.done / self.total))

    @property
    def words(self) -> str:
        """`40 of 100 (40 %): message`, or `40 done: message` where the total is not known."""
        if self.total is None:
            amount = f"{_number(self.done)} done"
        else:
            share = "" if self.percent is None else f" ({self.percent} %)"
            amount = f"{_number(self.done)} of {_number(self.total)}{share}"
        return f"{amount}: {self.message}" if self.message else amount

    def to_json(self) -> dict[str, Any]:
        """As the API shows it."""
        at = format_instant(self.at_ms)
        return {"done": self.done, "total": self.total, "message": self.message, "at": at}


def _number(value: float) -> str:
    return f"{value:,.6g}" if isinstance(value, float) and value < 1_000_000 else f"{value:,.0f}"
