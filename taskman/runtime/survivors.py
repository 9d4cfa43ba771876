"""Process trees that have outlived their worker, and the worker that goes on with them."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import trio

from ..errors import ShimLost
from ..plugins import PluginRegistry
from .journal import Entry, Journal
from .lease import Lease, began_at
from .lifeline import ShimProcess
from .link import Link
from .shim.frames import pack

__all__ = ["Survivor", "in_use", "pick_up"]

# For a shim to answer, and for a tree that nobody can go on with to be gone. It is longer than that takes.
_ANSWER_S = 10.0
_log = logging.getLogger("taskman.worker")


class Survivor:
    """A tree that runs on, or has ended since: its shim is ours, and so are our ends of its outputs."""

    def __init__(self, entry: Entry, shim: ShimProcess, outputs: list[int], stop_at: float) -> None:
        self.entry, self.shim, self.outputs = entry, shim, outputs
        self.lease = Lease(began_at(stop_at, entry.assignment.spec.lost_grace_s), entry.assignment.spec.lost_grace_s)

    async def end(self) -> None:
        """Kill it: nobody goes on with it. Returns when it is gone, or after 10 s. Cancellation: it is ended anyway."""
        with trio.move_on_after(_ANSWER_S, shield=True):
            try:
                await self.shim.send(pack([b"kill"]))
                await self.shim.receive()
                self.shim.busy = False
            except ShimLost:
                pass
        self.close()

    def close(self) -> None:
        """Let go of its outputs and of its shim."""
        for fd in self.outputs:
            os.close(fd)
        self.outputs = []
        self.shim.close()


def in_use(survivors: Sequence[Survivor]) -> list[Path]:
    """The scratch directories that go on with them."""
    return [one.entry.scratch for one in survivors if one.entry.scratch is not None]


async def pick_up(journal: Journal, registry: PluginRegistry, link: Link) -> list[Survivor]:
    """Find what the predecessor of this worker has left running, and say so to whoever gives us work.

    To be called before anything is claimed. What cannot go on is gone when this returns: what its task type does not
    allow, and what has been given to somebody else. Raises: StoreUnavailable; then nothing has changed.
    """
    found: list[Survivor] = []
    async with trio.open_nursery() as nursery:
        for entry in await trio.to_thread.run_sync(journal.entries):
            nursery.start_soon(_meet, journal, entry, registry, found)
    try:
        pairs = [(one.entry.assignment.run_id, one.entry.assignment.attempt) for one in found]
        replies = await link.take_over(pairs)
    except BaseException:
        for one in found:
            one.shim.abandon()
        raise
    kept = [one for one, reply in zip(found, replies, strict=True) if reply != "drop"]
    if kept:
        _log.info("%d runs outlived the worker before this one: they go on", len(kept))
    async with trio.open_nursery() as nursery:
        for one in found:
            if one not in kept:
                nursery.start_soon(one.end)
    gone = [one.entry.label for one in found if one not in kept]
    await trio.to_thread.run_sync(journal.remove, gone)
    return kept


async def _meet(journal: Journal, entry: Entry, registry: PluginRegistry, found: list[Survivor]) -> None:
    survivor = None
    with trio.move_on_after(_ANSWER_S) as patience:
        survivor = await _connect(journal, entry)
    if patience.cancelled_caught:
        _log.warning("run %s: the shim of attempt %d does not answer, so it is not gone on with",
                     entry.assignment.run_id, entry.assignment.attempt)  # fmt: skip
    task_type = registry.task_types.get(entry.assignment.spec.type)
    if survivor is not None and task_type is not None and task_type.resumable:
        found.append(survivor)
        return
    if survivor is not None:
        await survivor.end()
    await trio.to_thread.run_sync(journal.remove, [entry.label])


async def _connect(journal: Journal, entry: Entry) -> Survivor | None:
    connection = await trio.to_thread.run_sync(journal.connect, entry.label)
    if connection is None:
        return None
    try:
        shim, words, outputs = await ShimProcess.meet(connection)
    except ShimLost:  # it had begun to end the tree, which is gone now
        connection.close()
        return None
    except BaseException:  # if it ever wakes up: nobody wants the tree any more
        with suppress(OSError):
            connection.send(pack([b"kill"]))
        connection.close()
        raise
    survivor = Survivor(entry, shim, outputs, float(words[1]))
    if os.fsdecode(words[0]) != entry.label or len(outputs) < 2:  # without room for files, some do not arrive
        await survivor.end()
        return None
    for fd in outputs:
        os.set_blocking(fd, False)
    return survivor
