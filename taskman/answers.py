"""What the API answers, as the SDK hands it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from .errors import Fault
from .model.instants import parse_instant
from .model.states import FINAL

__all__ = ["Document", "LogLine", "Run", "Submitted", "definition_of"]

Document = dict[str, Any]
_ADDED = frozenset({"revision", "created_at", "updated_at", "next_at"})


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it was when the server answered; it does not follow what happens to it.

    Instants are in UTC. `raw` is the whole document, with what a newer server has added.
    """

    id: str
    state: str
    type: str
    task: str | None
    reason: str | None
    params: Mapping[str, Any]
    result: Any
    error: str | None
    progress: Any
    queue: str
    priority: int
    attempt: int
    worker: str | None
    parent: str | None
    created_at: datetime | None
    due_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    raw: Document = field(repr=False, compare=False)

    @classmethod
    def of(cls, raw: Document) -> Self:
        """The run that the API has described."""
        return cls(
            id=raw["id"],
            state=raw["state"],
            type=raw["type"],
            task=raw.get("task"),
            reason=raw.get("reason"),
            params=raw.get("params") or {},
            result=raw.get("result"),
            error=raw.get("error"),
            progress=raw.get("progress"),
            queue=raw.get("queue", "default"),
            priority=raw.get("priority", 0),
            attempt=raw.get("attempt", 0),
            worker=raw.get("worker"),
            parent=raw.get("parent"),
            created_at=_instant(raw.get("created_at")),
            due_at=_instant(raw.get("due_at")),
            started_at=_instant(raw.get("started_at")),
            finished_at=_instant(raw.get("finished_at")),
            raw=raw,
        )

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in FINAL

    @property
    def has_succeeded(self) -> bool:
        return self.state == "succeeded"


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a log, numbered from 1 in its attempt; `stream` is `out`, `err` or `sys`.

    `is_partial`: no newline followed the text, or not yet. `missing`: it stands for so many lines that are not kept.
    """

    attempt: int
    line: int
    at: datetime | None
    stream: str
    text: str
    is_partial: bool
    missing: int
    raw: Document = field(repr=False, compare=False)

    @classmethod
    def of(cls, raw: Document) -> Self:
        """The line that the API has sent."""
        return cls(
            attempt=raw["attempt"],
            line=raw["line"],
            at=_instant(raw.get("at")),
            stream=raw["stream"],
            text=raw["text"],
            is_partial=bool(raw.get("partial")),
            missing=raw.get("missing", 0),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of one of many: the `id` of its run, or None and the `faults` for which it was refused."""

    id: str | None
    faults: tuple[Fault, ...] = ()

    @classmethod
    def of(cls, raw: Document) -> Self:
        """The item that the API has sent."""
        faults = raw.get("errors") or ()
        return cls(raw.get("id"), tuple(Fault(one.get("pointer", ""), one.get("detail", "")) for one in faults))


def definition_of(task: Mapping[str, Any]) -> Document:
    """A task as it can be saved: without what the server adds when it shows one."""
    return {name: value for name, value in task.items() if name not in _ADDED}


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromtimestamp(parse_instant(text) / 1000, UTC)
