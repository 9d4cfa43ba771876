"""The worker agent on a real store: claims, outcomes, cancel, timeouts, drain, outages."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio
from pydantic import BaseModel

from taskman.errors import RetryAfter
from taskman.model.admission import Node
from taskman.model.ids import new_run_id
from taskman.model.run import Run, RunSpec
from taskman.model.states import State
from taskman.plugins import PluginRegistry, discover
from taskman.runtime.link_local import LocalLink
from taskman.runtime.scratch import Scratch
from taskman.runtime.worker import Worker
from taskman.store.runs import Submission
from taskman.store.store import Store
from taskman.tasktypes import TaskContext, TaskFailed, TaskType


class _Odd(Exception):
    """An exception that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Probe(TaskType):
    """A task type that does what its params say, for tests."""

    name = "probe"

    class Params(BaseModel):
        what: str = "return"
        value: Any = None

    started: ClassVar[list[str]] = []
    running: ClassVar[int] = 0
    most: ClassVar[int] = 0
    unfit: ClassVar[Any] = None

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

    async def returns_unfit(self, context: TaskContext, value: Any) -> Any:
        return Probe.unfit

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

    async def reports(self, context: TaskContext, value: int) -> None:
        for number in range(value):
            await context.progress(number + 1, value, f"step {number + 1}")

    async def reports_slowly(self, context: TaskContext, value: float) -> str:
        for number in range(8):
            await context.progress(number)
            await trio.sleep(value / 4)
        return "reported"

    async def exits(self, context: TaskContext, value: Any) -> None:
        sys.exit(value)

    async def gets_half_way(self, context: TaskContext, value: Any) -> None:
        context.result_so_far = {"rows": 5}
        await context.progress(5, 10)
        if value == "raise":
            raise ValueError("stuck")
        if value == "retry":
            raise RetryAfter(0)
        await trio.sleep_forever()

    async def leaves_nonsense(self, context: TaskContext, value: Any) -> None:
        context.result_so_far = {"x": object()}
        raise ValueError("stuck")

    async def scribbles(self, context: TaskContext, value: Any) -> str:
        (context.scratch_dir / "note").write_text("hello")
        assert context.scratch_dir == context.scratch_dir
        await context.progress(1)
        if value == "sleep":
            await trio.sleep_forever()
        return str(context.scratch_dir)

    async def tells(self, context: TaskContext, value: Any) -> dict[str, Any]:
        return {"key": context.idempotency_key, "secrets": dict(context.secrets), "so_far": context.result_so_far}

    async def raises_bytes(self, context: TaskContext, value: Any) -> None:
        context.log("odd \udcff text")
        raise OSError("no such file: \udcff")

    async def raises_odd(self, context: TaskContext, value: Any) -> None:
        raise _Odd

    async def fails_because(self, context: TaskContext, value: Any) -> None:
        raise TaskFailed(value, "so it is")

    async def asks_for_later(self, context: TaskContext, value: Any) -> None:
        raise RetryAfter(float(value))

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
async def worker(store: Store, registry: PluginRegistry, nursery: trio.Nursery, tmp_path: Path) -> Worker:
    node = Node(id="w1", types=frozenset(registry.task_types), labels={"zone": "a"}, slots=8, running=0)
    link = LocalLink(store, node)
    worker = Worker(link, registry, 8, Scratch(tmp_path / "scratch"))
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
        ("exits", "SystemExit: boom"),
        ("raises_bytes", "OSError: no such file: \\udcff"),
        ("raises_odd", "_Odd: (its message cannot be read)"),
        ("fails_because", "so it is"),
    ],
)
async def test_what_a_task_raises_is_its_failure(store: Store, worker: Worker, what: str, error: str) -> None:
    run = await until(store, await submit(store, what, "boom"))
    assert (run.state, run.reason) == (State.FAILED, "boom" if what == "fails_because" else "error")
    assert error in (run.error or "")


async def test_params_that_the_type_refuses_are_rejected(store: Store, worker: Worker) -> None:
    spec = RunSpec(type="shell", params={"nonsense": 1})
    run = await until(store, (await store.runs.submit([Submission(new_run_id(), spec)], by="test"))[0].run_id)
    assert (run.state, run.reason) == (State.FAILED, "rejected")
    assert "/params/nonsense" in (run.error or "")


@pytest.mark.parametrize("value", [float("nan"), "\ud800", [float("inf")]])
async def test_a_result_that_is_no_json_fails_the_run(store: Store, worker: Worker, value: Any) -> None:
    Probe.unfit = value
    run = await until(store, await submit(store, "returns_unfit"))
    assert run.state is State.FAILED
    assert "the result cannot be written as JSON" in (run.error or "")


@pytest.mark.parametrize(
    ("what", "value", "error"),
    [
        ("fails_because", "two words", "is no word"),
        ("asks_for_later", "inf", "RetryAfter takes seconds"),
        ("asks_for_later", "nan", "RetryAfter takes seconds"),
        ("asks_for_later", "-1", "RetryAfter takes seconds"),
    ],
)
async def test_nonsense_in_an_exception_is_named(
    store: Store, worker: Worker, what: str, value: str, error: str
) -> None:
    run = await until(store, await submit(store, what, value))
    assert (run.state, run.reason) == (State.FAILED, "error")
    assert error in (run.error or "")


async def test_progress_is_kept_and_the_last_report_is_not_lost(store: Store, worker: Worker) -> None:
    run = await until(store, await submit(store, "reports", 2000))
    assert run.progress is not None
    assert run.progress.words == "2,000 of 2,000 (100 %): step 2000"
    assert run.to_json()["progress"]["done"] == 2000


async def test_progress_is_seen_while_the_run_runs(store: Store, worker: Worker) -> None:
    run_id = await submit(store, "gets_half_way")
    run = await until(store, run_id, lambda run: run.progress is not None)
    assert run.state is State.RUNNING
    assert run.progress is not None
    assert run.progress.percent == 50
    await store.runs.cancel(run_id, by="test")
    run = await until(store, run_id)
    assert run.progress is not None


async def test_progress_of_an_earlier_attempt_is_not_that_of_the_next(store: Store, worker: Worker) -> None:
    run_id = await submit(store, "gets_half_way")
    await until(store, run_id, lambda run: run.progress is not None)
    await worker.drain(0.0)
    run = await store.runs.get(run_id)
    assert (run.state, run.progress) == (State.QUEUED, None)


async def test_progress_is_a_sign_of_life(store: Store, worker: Worker) -> None:
    run = await until(store, await submit(store, "reports_slowly", 0.4, idle_timeout_s=0.4))
    assert (run.state, run.result) == (State.SUCCEEDED, "reported")


async def test_the_result_so_far_is_kept_when_the_attempt_fails(store: Store, worker: Worker) -> None:
    run = await until(store, await submit(store, "gets_half_way", "raise"))
    assert (run.state, run.result) == (State.FAILED, {"rows": 5})


async def test_the_result_so_far_is_kept_when_the_attempt_is_tried_again(store: Store, worker: Worker) -> None:
    run_id = await submit(store, "gets_half_way", "retry", retry={"max_attempts": 2})
    run = await until(store, run_id, lambda run: run.state is State.SCHEDULED)
    assert [attempt.result for attempt in run.attempts] == [{"rows": 5}]


async def test_the_result_so_far_is_kept_when_the_attempt_times_out(store: Store, worker: Worker) -> None:
    run = await until(store, await submit(store, "gets_half_way", timeout_s=0.3))
    assert (run.reason, run.result) == ("timeout", {"rows": 5})


async def test_the_result_so_far_is_kept_when_the_run_is_cancelled(store: Store, worker: Worker) -> None:
    run_id = await submit(store, "gets_half_way")
    await until(store, run_id, lambda run: run.progress is not None)
    await store.runs.cancel(run_id, by="test")
    run = await until(store, run_id)
    assert (run.state, run.result) == (State.CANCELLED, {"rows": 5})


async def test_a_result_so_far_that_is_no_json_is_left_out_and_named(store: Store, worker: Worker) -> None:
    run = await until(store, await submit(store, "leaves_nonsense"))
    assert (run.error, run.result) == ("ValueError: stuck", None)
    chunks = await store.logs.read(run.id, 1, 0)
    assert b"left out: the result cannot be written as JSON" in chunks[0].data


async def test_the_scratch_directory_is_there_for_the_attempt_only(
    store: Store, worker: Worker, tmp_path: Path
) -> None:
    run = await until(store, await submit(store, "scribbles"))
    assert Path(run.result).parent == tmp_path / "scratch"
    assert list((tmp_path / "scratch").iterdir()) == []


async def test_the_scratch_directory_of_a_cancelled_attempt_is_gone_when_the_run_is_final(
    store: Store, worker: Worker, tmp_path: Path
) -> None:
    run_id = await submit(store, "scribbles", "sleep")
    await until(store, run_id, lambda run: run.progress is not None)
    assert len(list((tmp_path / "scratch").iterdir())) == 1
    await store.runs.cancel(run_id, by="test")
    await until(store, run_id)
    assert list((tmp_path / "scratch").iterdir()) == []


async def test_the_idempotency_key_is_the_runs_and_there_are_no_secrets(store: Store, worker: Worker) -> None:
    run = await until(store, await submit(store, "tells"))
    assert run.result == {"key": run.id, "secrets": {}, "so_far": None}


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
