"""The sources of the page streams. What they send on connecting brings a page up to date, whatever it has missed."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence

import trio

from ...errors import StoreUnavailable
from ...model.events import RunEvent
from ...model.run import Run
from ...model.states import State
from ...store.pubsub import Subscription
from ...store.store import Store
from ..events import ChangeEvents, Changes
from ..logs import LogReader, Part, Position, lines_of
from ..sse import encode
from .logview import block_number, blocks_of
from .rendering import Renderer
from .wording import title_of

__all__ = ["RegionStream", "RowStream", "RunStream"]

_RETRY_S = 0.5
_PACE_S = 0.25
_MOST_LINES = 2000


class RegionStream:
    """Sends a region at once, and again whenever something in it may have changed; after `every_s` in any case."""

    def __init__(
        self, changes: ChangeEvents, render: Callable[[], Awaitable[str]], pause_s: float, every_s: float = math.inf
    ) -> None:
        self._changes, self._render, self._pause_s, self._every_s = changes, render, pause_s, every_s
        self._stale, self._not_before = True, 0.0

    async def receive(self) -> bytes:
        """See taskman.web.sse.Source."""
        with trio.move_on_at(self._not_before + self._every_s):
            while not self._stale:
                changes = await self._changes.gather()
                self._stale = changes.gap or bool(changes.events)
        self._stale = True
        await trio.sleep_until(self._not_before)
        while True:
            try:
                region = await self._render()
            except StoreUnavailable:
                await trio.sleep(_RETRY_S)
                continue
            self._stale, self._not_before = False, trio.current_time() + self._pause_s
            return encode(None, region)

    def close(self) -> None:
        """See taskman.web.sse.Source."""
        self._changes.close()


class RowStream:
    """Sends the rows `shown` as they change; new runs are counted, not put under the pointer."""

    def __init__(
        self,
        store: Store,
        changes: ChangeEvents,
        render: Renderer,
        shown: set[str],
        fresh: set[str],
        states: Sequence[State],
    ) -> None:
        self._store, self._changes, self._render = store, changes, render
        self._shown, self._fresh, self._states = shown, fresh, states
        self._newest = max(shown, default="")
        self._count = 0
        self._waiting: Changes | None = None

    async def receive(self) -> bytes:
        """See taskman.web.sse.Source."""
        while True:
            if self._count == len(self._fresh):
                self._waiting = self._waiting or await self._changes.gather()
            try:
                block = await self._block(self._waiting)
            except StoreUnavailable:
                await trio.sleep(_RETRY_S)
                continue
            self._waiting, self._count = None, len(self._fresh)
            if block:
                return block

    async def _block(self, changes: Changes | None) -> bytes:
        if changes is not None and changes.gap:
            return encode("reset", "", changes.id)
        events = [event for event in changes.events if isinstance(event, RunEvent)] if changes else []
        self._fresh |= {event.id for event in events if self._is_new(event)}
        runs = await self._store.runs.get_many([event.id for event in events if event.id in self._shown])
        parts = [await self._render.into(f"#run-{run.id}", "_partials/run_row.html", run=run) for run in runs]
        if self._count != len(self._fresh):
            parts.append(await self._render.into("#fresh", "_partials/fresh.html", "innerHTML", count=len(self._fresh)))
        return encode(None, "".join(parts), changes.id if changes else None) if parts else b""

    def _is_new(self, event: RunEvent) -> bool:
        if event.id in self._shown:
            return False
        if self._states:
            return event.state in self._states
        return event.id > self._newest

    def close(self) -> None:
        """See taskman.web.sse.Source."""
        self._changes.close()


class RunStream:
    """Sends a run's state and its log's lines; ids `attempt-line` are places in the log, the state needs none."""

    def __init__(self, store: Store, render: Renderer, run: Run, start: Position, *, with_state: bool) -> None:
        self._store, self._render, self._run_id, self._with_state = store, render, run.id, with_state
        self._changes = ChangeEvents(store.events, lambda event: isinstance(event, RunEvent) and event.id == run.id)
        self._reader = LogReader(store, run, start, follow=True)
        self._at = start
        self._part: Part | None = None
        self._progress: Subscription | None = None
        self._stale, self._moved, self._ended, self._closed = True, False, False, False
        self._not_before = 0.0

    async def open(self) -> RunStream:
        """Subscribe. Raises StoreUnavailable."""
        try:
            await self._reader.open()
            self._progress = await self._store.pubsub.join(self._store.runs.progress_channel(self._run_id))
        except BaseException:
            self.close()
            raise
        return self

    async def receive(self) -> bytes:
        """See taskman.web.sse.Source."""
        while not self._closed:
            await trio.sleep_until(self._not_before)
            if not (self._stale or self._moved or self._part or self._ended):
                await self._wait()
            try:
                block = await self._block()
            except StoreUnavailable:
                self._not_before = trio.current_time() + _RETRY_S
                continue
            self._stale, self._moved, self._part, self._closed = False, False, None, self._ended
            self._not_before = trio.current_time() + _PACE_S
            return block
        raise trio.EndOfChannel

    async def _wait(self) -> None:
        """Until there are lines, another state or progress; each is kept if the wait is cut short."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_for_lines, nursery.cancel_scope)
            nursery.start_soon(self._wait_for_change, nursery.cancel_scope)
            if self._progress is not None:
                nursery.start_soon(self._wait_for_progress, self._progress, nursery.cancel_scope)

    async def _wait_for_lines(self, done: trio.CancelScope) -> None:
        try:
            self._part = await self._reader.receive()
        except trio.EndOfChannel:
            self._ended = True
        done.cancel()

    async def _wait_for_change(self, done: trio.CancelScope) -> None:
        while not self._stale:
            changes = await self._changes.gather()
            self._stale = changes.gap or bool(changes.events)
        done.cancel()

    async def _wait_for_progress(self, hints: Subscription, done: trio.CancelScope) -> None:
        async for _ in hints:  # a gap too: there may have been some
            self._moved = True
            await trio.sleep(_PACE_S)  # a task that reports all the time must not cut the reading of its log short
            done.cancel()

    async def _block(self) -> bytes:
        blocks = []
        if self._part is not None:
            html, at = await self._lines(self._part)
            blocks.append(encode(None, html, f"{at.attempt}-{at.line}"))
        if self._stale or self._ended:
            blocks.append(encode(None, await self._state()))
        elif self._moved:
            blocks.append(encode(None, await self._bar()))
        if self._ended:
            blocks.append(encode("eof", ""))
        if self._part is not None:
            self._at = at
        return b"".join(blocks)

    async def _state(self) -> str:
        run = await self._store.runs.get(self._run_id)
        parts = [await self._render("_partials/title.html", title=title_of(run))]
        parts.append(await self._render.into("#run-head", "_partials/run_head.html", "innerMorph", run=run))
        if self._with_state:
            why = await self._store.why(run)
            values = {"run": run, "why": why}
            parts.append(await self._render.into("#run-side", "_partials/run_side.html", "innerMorph", **values))
        return "".join(parts)

    async def _bar(self) -> str:
        run = await self._store.runs.get(self._run_id)
        values = {"run": run, "progress": run.progress}
        return await self._render.into("#run-progress", "_partials/progress.html", "innerMorph", **values)

    async def _lines(self, part: Part) -> tuple[str, Position]:
        """The lines, added to the block that the page ends with, or as new blocks; of a flood only the end."""
        lines = list(lines_of(part))
        shown = lines[-_MOST_LINES:]
        render, parts, at = self._render, [], self._at
        if part.attempt != at.attempt:
            parts.append(await render.into("#log", "_partials/log_attempt.html", "innerHTML", attempt=part.attempt))
            at = Position(part.attempt)
        first, *others = blocks_of(shown) if shown else [None]
        if first and at.line and len(shown) == len(lines) and first.number == block_number(at.line):
            parts.append(await render.into(f"#B{first.number}", "_partials/log_lines.html", "beforeend", block=first))
            first = None
        fresh = [first, *others] if first else others
        values = {"blocks": fresh, "skipped": len(lines) - len(shown), "run_id": self._run_id}
        parts.append(await render.into("#log", "_partials/log_blocks.html", "beforeend", **values))
        return "".join(parts), Position(part.attempt, lines[-1].line if lines else at.line)

    def close(self) -> None:
        """See taskman.web.sse.Source."""
        self._changes.close()
        self._reader.close()
        if self._progress is not None:
            self._progress.leave()
