"""Runs on every worker: who gets a child, how outcomes join, and what becomes of children left behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from pydantic import BaseModel

from taskman.model.admission import Node
from taskman.model.ids import child_run_id, is_run_id, new_run_id
from taskman.model.run import Run, RunSpec
from taskman.model.states import State
from taskman.plugins import PluginRegistry, discover
from taskman.runtime.dispatcher import Dispatcher
from taskman.runtime.link_local import LocalLink
from taskman.runtime.placement import Placement
from taskman.runtime.worker import Worker
from taskman.store.runs import Outcome, Submission
from taskman.store.store import Store
from taskman.tasktypes import TaskContext, TaskType

VERSIONS = {"where": "1"}


class Where(TaskType):
    """Says which worker it is on; fails on the one that its params name, stays on another."""

    name = "where"

    class Params(BaseModel):
        fails_on: str = ""
        stays_on: str = ""

    async def run(self, context: TaskContext, params: Params) -> Any:
        if context.worker == params.fails_on:
            raise ValueError("not here")
        if context.worker == params.stays_on:
            await trio.sleep_forever()
        return context.worker


@pytest.fixture
def registry() -> PluginRegistry:
    registry = discover()
    registry.task_types["where"] = Where()
    return registry


@pytest.fixture
async def nodes(store: Store, registry: PluginRegistry, nursery: trio.Nursery) -> Sequence[Node]:
    """Three workers of one server, two of them alike."""
    found, dispatcher = [], Dispatcher(store)
    await nursery.start(dispatcher.run)
    for number in (1, 2, 3):
        labels = {"zone": "a" if number < 3 else "b"}
        found.append(Node(id=f"w{number}", types=frozenset(registry.task_types), labels=labels, slots=2, running=0))
        await start_worker(store, registry, nursery, found[-1], dispatcher)
    await nursery.start(Placement(store).run)
    return found


async def start_worker(
    store: Store, registry: PluginRegistry, nursery: trio.Nursery, node: Node, dispatcher: Dispatcher | None = None
) -> None:
    link = LocalLink(store, node, dispatcher=dispatcher)
    await nursery.start(link.run)
    await nursery.start(Worker(link, registry, slots=node.slots).run)
    await store.workers.report(node, dict.fromkeys(node.types, "1"))


async def submit(store: Store, params: dict[str, Any] | None = None, **options: Any) -> str:
    spec = RunSpec(type="where", params=params or {}, **{"place": "all", **options})
    return (await store.runs.submit([Submission(new_run_id(), spec)], by="test"))[0].run_id


async def until(store: Store, run_id: str, *states: State) -> Run:
    with trio.fail_after(20):
        while not ((run := await store.runs.get(run_id)).state in states or (not states and run.is_final)):
            await trio.sleep(0.01)
    return run


async def children(store: Store, run_id: str) -> dict[str, Run]:
    return {run.spec.requires["worker"]: run for run in (await store.runs.page(parent=run_id)).runs}


async def test_each_worker_executes_it_once(store: Store, nodes: Sequence[Node]) -> None:
    run = await until(store, await submit(store))
    found = await children(store, run.id)
    assert run.state is State.SUCCEEDED
    assert {worker: (child.worker, child.result, child.attempt) for worker, child in found.items()} == {
        node.id: (node.id, node.id, 1) for node in nodes
    }
    workers = {node.id: {"run": found[node.id].id, "state": "succeeded"} for node in nodes}
    assert run.result == {"succeeded": 3, "failed": 0, "cancelled": 0, "workers": workers}
    assert [(one.worker, one.state) for one in run.attempts] == [(None, "succeeded")]


async def test_only_workers_that_serve_it_are_asked(store: Store, nodes: Sequence[Node]) -> None:
    run = await until(store, await submit(store, requires={"zone": "a"}))
    assert set(await children(store, run.id)) == {"w1", "w2"}


async def test_one_that_fails_fails_the_whole(store: Store, nodes: Sequence[Node]) -> None:
    run = await until(store, await submit(store, {"fails_on": "w2"}))
    assert (run.state, run.reason) == (State.FAILED, "children")
    assert run.error == "did not succeed on 1 of 3 workers"
    assert run.result["failed"] == 1
    assert run.result["workers"]["w2"]["state"] == "failed"
    assert (await children(store, run.id))["w2"].reason == "error"


async def test_cancelling_it_ends_it_everywhere(store: Store, nodes: Sequence[Node]) -> None:
    run_id = await submit(store, {"stays_on": "w2"})
    await until(store, run_id, State.RUNNING)
    await store.runs.cancel(run_id, by="test")
    run = await until(store, run_id)
    assert run.state is State.CANCELLED
    assert run.result["workers"]["w2"]["state"] == "cancelled"


async def test_it_waits_for_a_worker_and_says_so(store: Store, registry: PluginRegistry, nursery: trio.Nursery) -> None:
    await nursery.start(Placement(store).run)
    await store.workers.report(Node("other", frozenset({"shell"}), {}, 1, 0), {"shell": "1"})
    run_id = await submit(store, requires={"worker": "late"})
    reasons = await store.why(await store.runs.get(run_id))
    assert [one.code for one in reasons] == ["no_worker"]
    node = Node(id="late", types=frozenset(registry.task_types), labels={}, slots=1, running=0)
    await start_worker(store, registry, nursery, node)
    assert (await until(store, run_id)).result["succeeded"] == 1


async def test_a_worker_that_starts_later_finds_the_child_that_waits_for_it(
    store: Store, registry: PluginRegistry, nursery: trio.Nursery
) -> None:
    node = Node(id="restarted", types=frozenset(registry.task_types), labels={}, slots=1, running=0)
    await store.workers.report(node, VERSIONS)
    await nursery.start(Placement(store).run)
    run_id = await submit(store)
    await until(store, run_id, State.RUNNING)
    await start_worker(store, registry, nursery, node)
    assert (await until(store, run_id)).state is State.SUCCEEDED


async def test_a_child_whose_worker_does_not_come_back_is_given_up(store: Store, nursery: trio.Nursery) -> None:
    for name in ("here", "gone"):
        await store.workers.report(Node(name, frozenset({"where"}), {}, 1, 0), VERSIONS)
    await nursery.start(Placement(store, patience_s=0.2).run)
    run_id = await submit(store)
    await until(store, run_id, State.RUNNING)
    found = await children(store, run_id)
    await store.runs.claim("here", 1, [found["here"].spec.signature], lease_ms=60_000)
    await store.runs.finish("here", [Outcome(found["here"].id, 1, "succeeded")])
    await store.workers.remove("gone")
    run = await until(store, run_id)
    assert (run.state, run.reason) == (State.FAILED, "children")
    child = (await children(store, run_id))["gone"]
    assert (child.state, child.reason) == (State.FAILED, "lost")


async def test_two_servers_make_the_same_children(store: Store, nursery: trio.Nursery) -> None:
    names = [f"w{number}" for number in range(20)]
    for name in names:
        await store.workers.report(Node(name, frozenset({"where"}), {}, 1, 0), VERSIONS)
    for _ in range(3):
        await nursery.start(Placement(store).run)
    ids = [await submit(store) for _ in range(20)]
    for run_id in ids:
        await until(store, run_id, State.RUNNING)
        assert set(await children(store, run_id)) == set(names)
        assert len((await store.runs.get(run_id)).attempts) == 1


async def test_a_run_for_one_worker_finds_it_among_those_like_it(store: Store, nodes: Sequence[Node]) -> None:
    for _ in range(5):
        for node in nodes:
            run = await until(store, await submit(store, place="any", requires={"worker": node.id}))
            assert (run.state, run.result) == (State.SUCCEEDED, node.id)


async def test_a_draining_worker_is_not_asked(store: Store, nodes: Sequence[Node]) -> None:
    await store.workers.drain("w2", draining=True)
    run = await until(store, await submit(store))
    assert set(run.result["workers"]) == {"w1", "w3"}
    await store.workers.drain("w1", draining=True)
    await store.workers.drain("w3", draining=True)
    run_id = await submit(store)
    assert [one.code for one in await store.why(await store.runs.get(run_id))] == ["no_worker"]
    await store.workers.drain("w3", draining=False)
    assert set((await until(store, run_id)).result["workers"]) == {"w3"}


async def test_a_paused_queue_holds_it_back(store: Store, nodes: Sequence[Node]) -> None:
    await store.queues.pause("default", paused=True)
    run_id = await submit(store)
    assert [one.code for one in await store.why(await store.runs.get(run_id))] == ["paused"]
    await store.queues.pause("default", paused=False)
    assert (await until(store, run_id)).state is State.SUCCEEDED


async def test_its_limits_count_it_once(store: Store, nodes: Sequence[Node]) -> None:
    permits = {"limit/db": 1}
    first = await submit(store, {"stays_on": "w1"}, permits=permits)
    await until(store, first, State.RUNNING)
    second = await submit(store, permits=permits)
    await until(store, second, State.BLOCKED)
    await store.runs.cancel(first, by="test")
    assert (await until(store, second)).state is State.SUCCEEDED


def test_ids_of_children_sort_behind_their_parent_and_are_the_same_each_time() -> None:
    parent = new_run_id(3)
    ids = {child_run_id(parent, f"w{number}") for number in range(100)}
    assert len(ids) == 100
    assert ids == {child_run_id(parent, f"w{number}") for number in range(100)}
    assert all(is_run_id(one) and one > parent and one.startswith("r3-") for one in ids)
