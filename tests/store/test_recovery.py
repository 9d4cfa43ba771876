"""A Redis that comes back without its last second: what workers execute stands again, nothing is executed twice."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from pydantic import BaseModel

from taskman.model.admission import Node
from taskman.model.ids import new_run_id
from taskman.model.run import Run, RunSpec
from taskman.model.states import State
from taskman.plugins import PluginRegistry
from taskman.runtime.link_local import LocalLink
from taskman.runtime.worker import Worker
from taskman.store.runs import Outcome, Submission
from taskman.store.store import Store
from taskman.tasktypes import TaskContext, TaskType

LEASE_MS = 20_000


class Counted(TaskType):
    """Counts its executions; ends when `gate` opens."""

    name = "counted"

    class Params(BaseModel):
        pass

    def __init__(self) -> None:
        self.executions: list[str] = []
        self.gate = trio.Event()

    async def run(self, context: TaskContext, params: Params) -> Any:
        self.executions.append(context.run_id)
        await self.gate.wait()
        return len(self.executions)


async def until(found: Callable[[], Awaitable[Any]]) -> Any:
    with trio.fail_after(30):
        while True:
            try:
                if value := await found():
                    return value
            except Exception as error:
                if type(error).__name__ != "StoreUnavailable":
                    raise
            await trio.sleep(0.02)


def forget(directory: Path, kept: Path) -> None:
    """Put back the files of an earlier moment."""
    for entry in directory.iterdir():
        if entry.suffix != ".sock":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    shutil.copytree(kept, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock"))


@pytest.mark.parametrize("when_ended", [False, True], ids=["still running", "ended already"])
async def test_a_forgotten_claim_stands_again(
    new_server: Any, nursery: trio.Nursery, tmp_path: Path, when_ended: bool
) -> None:
    (directory := tmp_path / "redis").mkdir()
    server = await new_server("--appendonly", "yes", "--appendfsync", "always", directory=directory)
    store, task_type = Store(server.url), Counted()
    await nursery.start(store.run)
    spec = RunSpec(type="counted", params={})
    run_id = (await store.runs.submit([Submission(new_run_id(), spec)], by="test"))[0].run_id
    shutil.copytree(directory, tmp_path / "kept", ignore=shutil.ignore_patterns("*.sock"))
    registry = PluginRegistry()
    registry.task_types["counted"] = task_type
    link = LocalLink(store, Node(id="w1", types=frozenset({"counted"}), labels={}, slots=2, running=0))
    worker = Worker(link, registry, 2)
    await nursery.start(link.run)
    await nursery.start(worker.run)
    await until(lambda: in_state(store, run_id, State.RUNNING))
    if when_ended:
        task_type.gate.set()
        await until(lambda: in_state(store, run_id, State.SUCCEEDED))
    server.kill()
    forget(directory, tmp_path / "kept")
    await server.start()
    if not when_ended:
        adopted = await until(lambda: in_state(store, run_id, State.RUNNING))
        assert (adopted.attempt, adopted.reason) == (1, "recovered")
        task_type.gate.set()
    await until(lambda: in_state(store, run_id, State.SUCCEEDED))
    assert task_type.executions == [run_id]
    later = (await store.runs.submit([Submission(new_run_id(), spec)], by="test"))[0].run_id
    await until(lambda: in_state(store, later, State.SUCCEEDED))


async def in_state(store: Store, run_id: str, state: State) -> Run | None:
    run = await store.runs.get(run_id)
    return run if run.state is state else None


async def test_only_an_attempt_beyond_the_known_one_is_adopted(store: Store) -> None:
    spec = RunSpec(type="shell", params={}, permits={"limit/db": 1})
    run_id = (await store.runs.submit([Submission(new_run_id(), spec)], by="test"))[0].run_id
    assert await store.runs.adopt("w1", [(run_id, 0), (new_run_id(), 1)], lease_ms=LEASE_MS) == 0
    assert await store.runs.adopt("w1", [(run_id, 1)], lease_ms=LEASE_MS) == 1
    assert await store.runs.adopt("w2", [(run_id, 2)], lease_ms=LEASE_MS) == 0
    run = await store.runs.get(run_id)
    assert (run.state, run.worker, run.attempt) == (State.RUNNING, "w1", 1)
    assert await store.runs.claim("w2", 5, [spec.signature], lease_ms=LEASE_MS) == []
    assert await store.runs.finish("w1", [Outcome(run_id, 1, "succeeded")]) == ["succeeded"]


async def test_what_an_unheard_claim_has_claimed_goes_back_at_the_next_link(
    store: Store, nursery: trio.Nursery
) -> None:
    task_type, registry = Counted(), PluginRegistry()
    registry.task_types["counted"] = task_type
    task_type.gate.set()
    spec = RunSpec(type="counted", params={})
    ids = [receipt.run_id for receipt in await store.runs.submit(submissions(spec, 2), by="test")]
    link = LocalLink(store, Node(id="w1", types=frozenset({"counted"}), labels={}, slots=1, running=0))
    await store.runs.claim("w1", 1, [spec.signature], lease_ms=LEASE_MS)  # nobody hears the reply
    worker = Worker(link, registry, 1)
    await nursery.start(link.run)
    await nursery.start(worker.run)
    runs = [await until(partial(in_state, store, run_id, State.SUCCEEDED)) for run_id in ids]
    assert sorted(task_type.executions) == sorted(ids)
    assert [attempt.state for attempt in runs[0].attempts] == ["released", "succeeded"]


def submissions(spec: RunSpec, count: int) -> list[Submission]:
    return [Submission(new_run_id(), spec) for _ in range(count)]


async def test_a_worker_reports_also_when_redis_is_full(store: Store) -> None:
    node = Node(id="w1", types=frozenset({"shell"}), labels={"zone": "a"}, slots=3, running=1)
    await store.connection.execute("CONFIG", "SET", "maxmemory", 1)
    await store.workers.report(node, {"shell": "1"})
    assert [entry.node for entry in await store.workers.live()] == [node]
