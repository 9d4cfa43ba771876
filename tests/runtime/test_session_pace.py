"""A remote worker and its server exchange no more than they have to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest
import trio
import trio.testing
from pydantic import BaseModel
from runtime.trees import until

from taskman.errors import LinkLost
from taskman.model.admission import Node
from taskman.model.ids import new_run_id
from taskman.model.run import RunSpec
from taskman.plugins import PluginRegistry
from taskman.runtime.dispatcher import Dispatcher
from taskman.runtime.frames import Frames, Peer
from taskman.runtime.link_remote import RemoteLink
from taskman.runtime.sessions import Sessions
from taskman.runtime.spool import Spool
from taskman.runtime.worker import Worker
from taskman.store.runs import Submission
from taskman.store.store import Store
from taskman.tasktypes import TaskContext, TaskType


class Gated(TaskType):
    """Ends when it is let."""

    name = "gated"

    class Params(BaseModel):
        pass

    gates: ClassVar[dict[str, trio.Event]] = {}

    async def run(self, context: TaskContext, params: Params) -> None:
        await self.gates.setdefault(context.run_id, trio.Event()).wait()


class End:
    """One end of a connection in memory; `sent` has the kinds of messages of each frame, `want` with its number."""

    def __init__(self, out: trio.MemorySendChannel[bytes], into: trio.MemoryReceiveChannel[bytes]) -> None:
        self._out, self._into = out, into
        self.sent: list[list[str]] = []

    async def receive(self) -> bytes:
        try:
            return await self._into.receive()
        except trio.EndOfChannel:
            raise LinkLost from None

    async def send(self, frame: bytes) -> None:
        told = [f"want {one['n']}" if one["m"] == "want" else one["m"] for one in msgspec.msgpack.decode(frame)]
        self.sent.append([one for one in told if one not in ("beat", "hello", "welcome")])
        await self._out.send(frame)

    async def close(self, code: int, reason: str) -> None:
        await self._out.aclose()

    @property
    def told(self) -> list[str]:
        return list(chain.from_iterable(self.sent))


class Scene:
    """A worker with four slots, connected to a server in this process."""

    def __init__(self, store: Store, tmp_path: Path) -> None:
        there, here = trio.open_memory_channel[bytes](9), trio.open_memory_channel[bytes](9)
        self.store, self.worker, self.server = store, End(there[0], here[1]), End(here[0], there[1])
        node = Node(id="w1", types=frozenset({"gated"}), labels={}, slots=4, running=0)
        self.link = RemoteLink(self._dial, node, {"gated": "1"}, Spool(tmp_path / "spool", 2**20))
        registry = PluginRegistry()
        registry.task_types["gated"] = Gated()
        self.agent = Worker(self.link, registry, 4)

    @asynccontextmanager
    async def _dial(self) -> AsyncIterator[Frames]:
        yield self.worker

    async def run(self, nursery: trio.Nursery) -> None:
        dispatcher = Dispatcher(self.store)
        await nursery.start(dispatcher.run)
        nursery.start_soon(Sessions(self.store, dispatcher, "s").serve, self.server, Peer("here", "token"))
        await nursery.start(self.link.run)
        await nursery.start(self.agent.run)
        await until(lambda: "want 2" in self.worker.told)

    async def submit(self, count: int) -> None:
        new = [Submission(new_run_id(), RunSpec(type="gated", params={})) for _ in range(count)]
        await self.store.runs.submit(new, by="test")

    async def until_running(self, count: int) -> list[str]:
        await until(lambda: len(Gated.gates) == count)
        await trio.sleep(0.1)  # for what may still be said
        self.worker.sent.clear()
        self.server.sent.clear()
        return list(Gated.gates)


@pytest.fixture
async def scene(store: Store, nursery: trio.Nursery, tmp_path: Path) -> AsyncIterator[Scene]:
    Gated.gates.clear()
    scene = Scene(store, tmp_path)
    await scene.run(nursery)
    yield scene
    nursery.cancel_scope.cancel()


async def test_results_say_how_many_slots_are_free_now(scene: Scene) -> None:
    await scene.submit(4)
    for run_id in (await scene.until_running(4))[:2]:
        Gated.gates[run_id].set()
    await until(lambda: scene.server.told.count("recorded") == 2)
    assert list(map(sorted, scene.worker.sent)) == [["done", "done", "want 2"]]


async def test_what_follows_is_claimed_while_the_results_are_recorded(scene: Scene) -> None:
    await scene.submit(8)
    first = await scene.until_running(4)
    for run_id in first[:2]:
        Gated.gates[run_id].set()
    await until(lambda: len(Gated.gates) == 6)
    kinds = scene.server.told
    assert kinds[0] == "assign"  # with both, and ahead of the answers
    assert kinds.count("assign") == 1
    await until(lambda: scene.server.told.count("recorded") == 2)


async def test_slots_that_get_free_while_runs_are_awaited_are_told_with_the_next_results(scene: Scene) -> None:
    await scene.submit(4)
    waiting = await scene.until_running(4)
    Gated.gates[waiting[0]].set()
    await until(lambda: "recorded" in scene.server.told)
    Gated.gates[waiting[1]].set()
    await until(lambda: scene.server.told.count("recorded") == 2)
    assert list(map(sorted, scene.worker.sent)) == [["done", "want 1"], ["done", "want 2"]]
