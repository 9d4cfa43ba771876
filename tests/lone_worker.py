"""A worker in a process of its own, without a server around it: `python lone_worker.py REDIS_URL LOG_LIMIT [JOURNAL]`.

With a directory for its journal, it goes on with what the one before it has left there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from taskman.model.admission import Node
from taskman.plugins import discover
from taskman.runtime.journal import Journal
from taskman.runtime.link_local import LocalLink
from taskman.runtime.survivors import pick_up
from taskman.runtime.worker import Worker
from taskman.store.store import Store


async def main(url: str, log_limit: int, directory: str = "") -> None:
    """Work until killed."""
    registry = discover()
    async with trio.open_nursery() as nursery:
        store = Store(url, log_limit=log_limit)
        await nursery.start(store.run)
        node = Node(id="w1", types=frozenset(registry.task_types), labels={}, slots=4, running=0)
        link = LocalLink(store, node)
        journal = Journal(Path(directory)) if directory else None
        survivors = await pick_up(journal, registry, link) if journal else []
        await nursery.start(link.run)
        await nursery.start(Worker(link, registry, slots=4, journal=journal, survivors=survivors).run)
        print("working", flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
