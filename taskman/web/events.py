"""State changes as server-sent events: gathered, the last state of each row winning, resumable on any server."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import trio

from ..model.events import Event, RunEvent, TaskEvent, WorkerEvent
from ..store.events import Batch, EventHub
from .sse import encode

__all__ = ["ChangeEvents", "Changes", "Filter", "as_event"]

GATHER_S = 0.25
_BACKLOG = 1000

Filter = Callable[[Event], bool]


@dataclass(frozen=True, slots=True)
class Changes:
    """What has changed since the last look: the last event of each row. `gap`: there may have been more."""

    id: str
    events: tuple[Event, ...]
    gap: bool


class ChangeEvents:
    """A source of server-sent events about runs and tasks that pass `wanted`, at most four blocks a second.

    After a gap it says `reset`: what the page shows must be loaded afresh. Leave it by `close`.
    """

    def __init__(self, hub: EventHub, wanted: Filter, form: Callable[[Event], bytes | None] | None = None) -> None:
        self._hub, self._wanted, self._form = hub, wanted, form or as_event
        self._stack = hub.listen()
        self._listener = self._stack.__enter__()
        self._backlog: list[Batch] = []
        self._gathered: list[Batch] = []
        self._closed = False

    async def resume(self, last_id: str | None) -> ChangeEvents:
        """Begin with what came after `last_id`, or with a reset when that is known no more."""
        if last_id:
            found = await self._hub.since(last_id, _BACKLOG)
            gap = found is None or len(found) == _BACKLOG
            self._backlog = [Batch(self._hub.last_id, gap=True)] if gap else list(found or [])
        return self

    async def receive(self) -> bytes:
        """See taskman.web.sse.Source."""
        while True:
            if block := self._encode(await self.gather()):
                return block

    async def gather(self) -> Changes:
        """What has changed since the last call; waits for something, then a moment more. Cancellation loses nothing."""
        if not self._backlog and not self._gathered:
            self._gathered.append(await self._listener.receive())
            await trio.sleep(GATHER_S)
        batches = self._backlog + self._gathered + self._listener.receive_waiting()
        self._backlog, self._gathered = [], []
        latest = {_row(event): event for batch in batches for event in batch.events if self._wanted(event)}
        return Changes(batches[-1].id, tuple(latest.values()), any(batch.gap for batch in batches))

    def _encode(self, changes: Changes) -> bytes:
        if changes.gap:
            return encode("reset", "", changes.id)
        blocks = [block for event in changes.events if (block := self._form(event))]
        # the id goes with the last event only: who breaks off before it gets all of them again
        return b"".join(blocks) + f"id: {changes.id}\n\n".encode() if blocks else b""

    def close(self) -> None:
        """See taskman.web.sse.Source."""
        if not self._closed:
            self._closed = True
            self._stack.__exit__(None, None, None)


def _row(event: Event) -> tuple[str, str]:
    if isinstance(event, RunEvent):
        return "run", event.id
    if isinstance(event, WorkerEvent):
        return "worker", event.id
    return ("task", event.name) if isinstance(event, TaskEvent) else ("due", "")


def as_event(event: Event) -> bytes | None:
    """The event as the API sends it."""
    if isinstance(event, RunEvent):
        data = {
            "id": event.id,
            "state": event.state,
            "reason": event.reason,
            "attempt": event.attempt,
            "worker": event.worker,
            "task": event.task,
        }
        return encode("run", json.dumps(data))
    if isinstance(event, TaskEvent):
        return encode("task", json.dumps({"name": event.name, "change": event.change}))
    if isinstance(event, WorkerEvent):
        return encode("worker", json.dumps({"id": event.id, "change": event.change}))
    return None
