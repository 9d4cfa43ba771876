"""The worker agent on a real store: claims, outcomes, cancel, timeouts, drain, outages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import trio
from pydantic import BaseModel

from taskman.model.admission import Node
from taskman.model.ids import new_run_id
from taskman.model.run import Run, RunSpec
from taskman.model.states import State
from taskman.plugins import PluginRegistry, discover
from taskman.runtime.link_local import LocalLink
from taskman.runtime.worker import Worker
from taskman.store.runs import Submission
from taskman.store.store import Store
from taskman.tasktypes import TaskContext, TaskType


class Probe(TaskType):
    """A task type that does what its params say, for tests."""

    name = "probe"

    class Params(BaseModel):
        what: str = "return"
        value: Any = None

    started: ClassVar[list[str]] = []
    running: ClassVar[int] = 0
    most: ClassVar[int] = 0

    async def run(self, context: TaskContext, params: Params) -> Any:
        Probe.started.append(context.run_id)
        Probe.running += 1
        Probe.most = max(Probe.most, Probe.running)
        try:
            return await getattr(self, params.what)(context, params.value)
        finally:
            Probe.running -= 1

    async def returns(self, context: TaskContext, value: Any) -> Any:
        return value

    async def object(self, context: TaskContext, value: Any) -> Any:
        return object()

    async def raises(self, context: TaskContext, value: Any) -> None:
        raise ValueError(value)

    async def raises_in_nursery(self, context: TaskContext, value: Any) -> None:
        async def fail() -> None:
            raise KeyError(value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            await trio.sleep_forever()

    async def sleeps(self, context: TaskContext, value: Any) -> None:
        context.log("asleep")
        await trio.sleep_forever()

    async def rests(self, context: TaskContext, value: float) -> str:
        await trio.sleep(value)
        return "rested"

    async def logs(self, context: TaskContext, value: list[str]) -> None:
        for text in value:
            context.log(text)


@pytest.fixture(autouse=True)
def reset() -> None:
    Probe.started.clear()
    Probe.most = 0


@pytest.fixture
def registry() -> PluginRegistry:
    registry = discover()
    registry.task_types["probe"] = Probe()
    return registry


@pytest.fixture
async def worker(store: Store, registry: PluginRegistry, nursery: trio.Nursery) -> Worker:
    node = Node(id="w1", types=frozenset(registry.task_types), labels={"zone": "a"}, slots=8, running=0)
    link = LocalLink(store, node)
    worker = Worker(link, registry, slots=8)
    await nursery.start(link.run)
    await nursery.start(worker.run)
    return worker


async def submit(store: Store, what: str, value: Any = None, **options: Any) -> str:
    spec = RunSpec(type="probe", params={"what": what, "value": value}, **options)
    return (await store.runs.submit([Submission(new_run_id(), spec)], by="test"))[0].run_id


async def until(store: Store, run_id: str, wanted: Callable[[Run], bool] = lambda run: run.is_final) -> Run:
    with trio.fail_after(20):
        while not wanted(run := await store.runs.get(run_id)):
            await trio.sleep(0.01)
    return run


async def test_a_result_arrives(store: Store, worker: Worker) -> None:
    run = await until(store, await submit(store, "returns", {"n": [1, None, "ü"]}))
    assert (run.state, run.result, run.worker) == (State.SUCCEEDED, {"n": [1, None, "ü"]}, "w1")


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("raises", "ValueError: boom"),
        ("raises_in_nursery", "KeyError: 'boom'"),
        ("object", "the result cannot be written as JSON"),
    ],
)
async def test_what_a_task_raises_is_its_failure(store: Store, worker: Worker, what: str, error: str) -> None:
    run = await until(store, await submit(store, what, "boom"))
    assert (run.state, run.reason) == (State.FAILED, "error")
    assert error in (run.error or "")


async def test_params_that_the_type_refuses_are_rejected(store: Store, worker: Worker) -> None:
    spec = RunSpec(type="shell", params={"nonsense": 1})
    run = await until(store, (await store.runs.submit([Submission(new_run_id(), spec)], by="test"))[0].run_id)
    assert (run.state, run.reason) == (State.FAILED, "rejected")
    assert "/params/nonsense" in (run.error or "")


async def test_a_timeout_ends_an_attempt(store: Store, worker: Worker) -> None:
    run = await until(store, await submit(store, "sleeps", timeout_s=0.2))
    assert (run.state, run.reason) == (State.FAILED, "timeout")
    assert run.attempts[0].state == "timed_out"


async def test_a_cancelled_run_ends_soon(store: Store, worker: Worker) -> None:
    run_id = await submit(store, "sleeps")
    await until(store, run_id, lambda run: run.state is State.RUNNING)
    with trio.fail_after(3):
        await store.runs.cancel(run_id, by="test")
        assert (await until(store, run_id)).state is State.CANCELLED


async def test_no_more_attempts_than_slots_run_at_once(store: Store, worker: Worker) -> None:
    ids = [await submit(store, "rests", 0.05) for _ in range(40)]
    for run_id in ids:
        assert (await until(store, run_id)).state is State.SUCCEEDED
    assert Probe.most == 8


async def test_each_of_many_runs_is_executed_once(store: Store, worker: Worker) -> None:
    specs = [Submission(new_run_id(), RunSpec(type="probe", params={"what": "returns"})) for _ in range(3000)]
    await store.runs.submit(specs, by="test")
    with trio.fail_after(30):
        while (await store.runs.count_by_state())[State.SUCCEEDED] < 3000:
            await trio.sleep(0.02)
    assert sorted(Probe.started) == sorted(one.id for one in specs)


async def test_the_log_is_whole_before_the_run_is_final(store: Store, worker: Worker) -> None:
    texts = [f"line {number}" for number in range(5000)]
    run = await until(store, await submit(store, "logs", texts))
    data = b""
    seq = 0
    while chunks := await store.logs.read(run.id, 1, seq):
        data += b"".join(chunk.data for chunk in chunks)
        seq = chunks[-1].seq
    assert data.decode().splitlines() == texts


async def test_a_drained_worker_lets_runs_finish_and_releases_the_rest(store: Store, worker: Worker) -> None:
    short, long = await submit(store, "rests", 0.2), await submit(store, "sleeps")
    for run_id in (short, long):
        await until(store, run_id, lambda run: run.state is State.RUNNING)
    with trio.fail_after(10):
        await worker.drain(1.0)
    later = await submit(store, "returns")
    assert (await store.runs.get(short)).state is State.SUCCEEDED
    released = await store.runs.get(long)
    assert (released.state, released.reason) == (State.QUEUED, "released")
    assert (await store.runs.get(later)).state is State.QUEUED


async def test_an_attempt_whose_lease_was_given_away_is_stopped(store: Store, worker: Worker) -> None:
    run_id = await submit(store, "sleeps")
    await until(store, run_id, lambda run: run.state is State.RUNNING)
    await store.runs.reclaim_from("w1")
    # it is claimed again, as attempt 2, by this same worker; the first is told to stop and changes nothing
    await until(store, run_id, lambda run: run.attempt == 2)
    await store.runs.cancel(run_id, by="test")
    run = await until(store, run_id)
    assert [attempt.state for attempt in run.attempts] == ["lost", "cancelled"]
