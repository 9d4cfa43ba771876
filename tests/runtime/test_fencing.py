"""What a worker does with runs that may be somebody else's by now, and with a Redis that refuses or forgets."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import trio

from taskman.errors import StoreUnavailable
from taskman.model.admission import Node
from taskman.model.ids import new_run_id
from taskman.model.run import Run, RunSpec
from taskman.model.states import State
from taskman.plugins import PluginRegistry, discover
from taskman.runtime.link_local import LocalLink
from taskman.runtime.worker import Worker
from taskman.store.runs import Submission
from taskman.store.store import Store

PREFIX = "tm:{0}:"
# Says that it is there, and does not go for being asked.
STUBBORN = 'trap "" TERM; echo "start $TASKMAN_ATTEMPT" >> {0}; while :; do sleep 0.05; done'


@pytest.fixture
async def worker(store: Store, nursery: trio.Nursery) -> Worker:
    registry: PluginRegistry = discover()
    node = Node(id="w1", types=frozenset(registry.task_types), labels={}, slots=8, running=0)
    link = LocalLink(store, node)
    worker = Worker(link, registry, slots=8)
    await nursery.start(link.run)
    await nursery.start(worker.run)
    return worker


async def submit(store: Store, command: str, **options: Any) -> str:
    spec = RunSpec(type="shell", params={"command": command}, **options)
    return (await store.runs.submit([Submission(new_run_id(), spec)], by="test"))[0].run_id


async def lines_of(path: Path, count: int) -> list[str]:
    """The lines of a file once there are so many."""
    with trio.fail_after(10):
        while len(lines := read_lines(path)) < count:
            await trio.sleep(0.01)
    return lines


def read_lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


async def ended(store: Store, run_id: str) -> Run:
    with trio.fail_after(20):
        while not (run := await store.runs.get(run_id)).is_final:
            await trio.sleep(0.01)
    return run


def processes_of(run_id: str, attempt: int) -> list[int]:
    """The processes of an attempt."""
    marks = {f"TASKMAN_RUN_ID={run_id}".encode(), f"TASKMAN_ATTEMPT={attempt}".encode()}
    found = []
    for entry in Path("/proc").iterdir():
        try:
            environment = (entry / "environ").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if marks <= set(environment.split(b"\0")):
            found.append(int(entry.name))
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_a_run_claimed_anew_starts_when_nothing_of_its_old_attempt_is_left(
    store: Store, worker: Worker, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    run_id = await submit(store, STUBBORN.format(trace), grace_s=60.0)
    await lines_of(trace, 1)
    await store.runs.reclaim_from("w1")
    assert await lines_of(trace, 2) == ["start 1", "start 2"]
    assert processes_of(run_id, 1) == []
    await store.runs.cancel(run_id, by="test", force=True)
    assert (await ended(store, run_id)).state is State.CANCELLED


async def test_an_attempt_that_was_given_away_is_killed_without_its_grace(
    store: Store, worker: Worker, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    run_id = await submit(store, STUBBORN.format(trace), grace_s=60.0)
    await lines_of(trace, 1)
    await store.connection.execute("HSET", f"{PREFIX}run:{run_id}", "worker", "w2")  # another has claimed it
    with trio.fail_after(10):
        while processes_of(run_id, 1):
            await trio.sleep(0.05)


async def test_a_claim_that_redis_forgot_is_renewed_without_a_second_execution(
    store: Store, worker: Worker, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    run_id = await submit(store, f"echo start >> {trace}; sleep 1; echo end >> {trace}")
    await lines_of(trace, 1)
    await forget_claim(store, run_id)
    await submit(store, "true")  # wakes the worker
    run = await ended(store, run_id)
    assert (run.state, run.attempt) == (State.SUCCEEDED, 1)
    assert trace.read_text() == "start\nend\n"


async def forget_claim(store: Store, run_id: str) -> None:
    """What a Redis does that comes back without its last second."""
    key, execute = f"{PREFIX}run:{run_id}", store.connection.execute
    await execute("HSET", key, "state", "queued", "attempt", 0, "worker", "")
    await execute("ZREM", f"{PREFIX}leases", run_id)
    await execute("ZREM", f"{PREFIX}state:running", run_id)
    await execute("ZADD", f"{PREFIX}state:queued", 0, run_id)
    await execute("ZADD", f"{PREFIX}ready:shell|default|", 0, run_id)


async def test_an_attempt_whose_shim_is_killed_is_lost_and_not_failed(
    store: Store, worker: Worker, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    run_id = await submit(store, f"echo $TASKMAN_ATTEMPT >> {trace}; [ $TASKMAN_ATTEMPT -gt 1 ] || sleep 60")
    await lines_of(trace, 1)
    os.kill(parent_of(min(processes_of(run_id, 1))), signal.SIGKILL)
    run = await ended(store, run_id)
    assert [attempt.state for attempt in run.attempts] == ["lost", "succeeded"]


async def test_a_worker_outlives_a_redis_that_refuses_every_write(store: Store, worker: Worker) -> None:
    run_id = await submit(store, "echo hello; sleep 0.3; echo world")
    await store.connection.execute("CONFIG", "SET", "min-replicas-to-write", 1)
    with pytest.raises(StoreUnavailable, match="NOREPLICAS"):
        await submit(store, "true")
    await trio.sleep(1.5)  # the time of the fault
    await store.connection.execute("CONFIG", "SET", "min-replicas-to-write", 0)
    run = await ended(store, run_id)
    assert (run.state, run.attempt) == (State.SUCCEEDED, 1)
    assert b"".join(chunk.data for chunk in await store.logs.read(run_id, 1)) == b"hello\nworld\n"
    assert (await ended(store, await submit(store, "true"))).state is State.SUCCEEDED


async def test_a_full_redis_holds_up_no_run_for_the_sake_of_its_log(store: Store, worker: Worker) -> None:
    run_id = await submit(store, "echo before; sleep 0.5; echo while; sleep 0.5")
    with trio.fail_after(10):
        while not await store.logs.read(run_id, 1):
            await trio.sleep(0.01)
    await store.connection.execute("CONFIG", "SET", "maxmemory", 1)
    run = await ended(store, run_id)
    await store.connection.execute("CONFIG", "SET", "maxmemory", 0)
    assert (run.state, run.attempt) == (State.SUCCEEDED, 1)
    assert [chunk.data for chunk in await store.logs.read(run_id, 1)] == [b"before\n"]


async def test_a_redis_that_is_full_for_a_moment_costs_no_log(store: Store, worker: Worker) -> None:
    run_id = await submit(store, "echo before; sleep 0.5; echo while; sleep 2")
    with trio.fail_after(10):
        while not await store.logs.read(run_id, 1):
            await trio.sleep(0.01)
    await store.connection.execute("CONFIG", "SET", "maxmemory", 1)
    await trio.sleep(1)  # the time of the fault
    await store.connection.execute("CONFIG", "SET", "maxmemory", 0)
    await ended(store, run_id)
    assert b"".join(chunk.data for chunk in await store.logs.read(run_id, 1)) == b"before\nwhile\n"


async def test_a_claim_that_was_answered_too_late_starts_nothing(
    store: Store, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = store.runs.claim

    async def answered_late(*args: Any, **options: Any) -> Any:
        claimed = await claim(*args, **options)
        await trio.sleep(0.02)
        return claimed

    monkeypatch.setattr(store.runs, "claim", answered_late)
    monkeypatch.setattr("taskman.runtime.link_local.STALE_CLAIM_S", 0.01)
    run_id = await submit(store, "true")
    with trio.fail_after(10):
        while (await store.runs.get(run_id)).state is not State.RUNNING:
            await trio.sleep(0.01)
    assert worker.running == 0
