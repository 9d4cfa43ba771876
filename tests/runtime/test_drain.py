"""A drain that begins while a claim is under way."""

from __future__ import annotations

from collections.abc import Callable

import trio
import trio.testing

from taskman.model.admission import Node
from taskman.model.ids import new_run_id
from taskman.model.run import RunSpec
from taskman.model.states import State
from taskman.plugins import discover
from taskman.runtime.link import Claim
from taskman.runtime.link_local import LocalLink
from taskman.runtime.worker import Worker
from taskman.store.runs import Submission
from taskman.store.store import Store


class Late(LocalLink):
    """A link whose claims come back when they may."""

    def __init__(self, store: Store, node: Node) -> None:
        super().__init__(store, node)
        self.claimed, self.may_come = trio.Event(), trio.Event()

    async def claim(self, room: Callable[[], int]) -> Claim:
        claim = await super().claim(room)
        self.claimed.set()
        with trio.CancelScope(shield=True):
            await self.may_come.wait()
        return claim


async def test_what_was_being_claimed_when_the_drain_began_goes_back(store: Store, nursery: trio.Nursery) -> None:
    registry = discover()
    link = Late(store, Node(id="w1", types=frozenset(registry.task_types), labels={}, slots=8, running=0))
    worker = Worker(link, registry, 8)
    await nursery.start(link.run)
    await nursery.start(worker.run)
    spec = RunSpec(type="shell", params={"command": "sleep 1000"})
    [receipt] = await store.runs.submit([Submission(new_run_id(), spec)], by="test")
    await link.claimed.wait()
    with trio.fail_after(10):
        async with trio.open_nursery() as draining:
            draining.start_soon(worker.drain, 0.0)
            await trio.testing.wait_all_tasks_blocked()
            link.may_come.set()
    run = await store.runs.get(receipt.run_id)
    assert (run.state, run.reason) == (State.QUEUED, "released")
