"""The dead man's timer: a tree whose lease nobody renews is gone before the run could be somebody else's."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from runtime.trees import Output, carrying, looks_in_proc, shell, shims, spec, state, until, within

from taskman.errors import LeaseEnded
from taskman.model.admission import Node
from taskman.model.ids import new_run_id
from taskman.model.run import Run, RunSpec
from taskman.model.states import State
from taskman.plugins import discover
from taskman.runtime import lease as terms
from taskman.runtime.lease import Lease, now
from taskman.runtime.link_local import LocalLink
from taskman.runtime.process import Processes
from taskman.runtime.shim.clock import Alarm
from taskman.runtime.worker import Worker
from taskman.store.runs import Submission
from taskman.store.store import Store

STUBBORN = 'trap "" TERM; echo ready; while :; do sleep 0.05; done'
OBEDIENT = 'trap "echo ended; exit 0" TERM; echo ready; while :; do sleep 0.05; done'
# Leaves its mark, and goes when it is told to; the next attempt ends by itself.
LASTING = "echo $TASKMAN_ATTEMPT >> {0}; [ $TASKMAN_ATTEMPT -gt 1 ] || exec sleep 60"
PROGRAM = Path(__file__).parent.parent / "lone_worker.py"
STOP_S, KILL_S, LOST_S = 1.0, 2.0, 3.0
pytestmark = looks_in_proc


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases of a few seconds."""
    monkeypatch.setattr(terms, "LEASE_S", LOST_S)
    monkeypatch.setattr(terms, "MARGIN_S", LOST_S - STOP_S)
    monkeypatch.setattr(terms, "KILL_MARGIN_S", LOST_S - KILL_S)
    monkeypatch.setattr("taskman.runtime.worker.HEARTBEAT_S", 0.2)
    monkeypatch.setattr("taskman.runtime.worker._CHECK_S", 0.1)


@pytest.mark.usefixtures("short")
@within(10)
async def test_a_tree_whose_lease_is_not_renewed_is_stopped_and_not_judged(
    processes: Processes, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terms, "KILL_MARGIN_S", 0.1)  # time to say its last word, also on a busy machine
    output, began = Output(), now()
    with pytest.raises(LeaseEnded):
        await processes.execute(shell(OBEDIENT, mark), output, Lease(began, 0.0))
    assert STOP_S <= now() - began < LOST_S
    assert output.bytes["out"] == b"ready\nended\n"


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("lost_grace_s", [0.0, 1.0])
@within(10)
async def test_what_ignores_that_is_killed_before_the_run_may_be_given_away(
    processes: Processes, mark: str, lost_grace_s: float
) -> None:
    began = now()
    with pytest.raises(LeaseEnded):
        await processes.execute(shell(STUBBORN, mark, grace_s=60.0), Output(), Lease(began, lost_grace_s))
    assert KILL_S <= now() - began - lost_grace_s < LOST_S


@pytest.mark.usefixtures("short")
@within(10)
async def test_a_grace_that_is_over_earlier_is_kept(processes: Processes, mark: str) -> None:
    began = now()
    with pytest.raises(LeaseEnded):
        await processes.execute(shell(STUBBORN, mark, grace_s=0.1), Output(), Lease(began, 0.0))
    assert STOP_S <= now() - began < KILL_S


@pytest.mark.usefixtures("short")
@within(10)
async def test_each_renewal_prolongs_the_life_of_every_tree(processes: Processes, mark: str) -> None:
    lease, results = Lease(now(), 0.0), []

    async def execute() -> None:
        results.append(await processes.execute(shell("sleep 2.5", mark), Output(), lease))

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(execute)
        while len(results) < 2:
            lease.renew(now())
            await trio.sleep(0.1)
    assert [result.exit_code for result in results] == [0, 0]


@pytest.mark.usefixtures("short")
def test_a_renewal_that_was_asked_for_earlier_changes_nothing() -> None:
    lease = Lease(100.0, 7.0)
    lease.renew(99.0)
    assert (lease.stop_at, lease.kill_at) == (100 + 7 + STOP_S, 100 + 7 + KILL_S)


@pytest.mark.usefixtures("short")
@within(10)
async def test_nothing_is_started_when_the_lease_is_over(processes: Processes, tmp_path: Path) -> None:
    with pytest.raises(LeaseEnded):
        await processes.execute(spec("touch", str(tmp_path / "trace")), Output(), Lease(now() - STOP_S, 0.0))
    assert not (tmp_path / "trace").exists()
    before = shims()
    assert (await processes.execute(spec("true"), Output())).exit_code == 0
    assert shims() == before


@pytest.mark.usefixtures("short")
@within(10)
async def test_a_lease_concerns_its_own_run_and_not_the_next_of_the_shim(processes: Processes, mark: str) -> None:
    await processes.execute(spec("true"), Output(), Lease(now(), 0.0))
    result = await processes.execute(shell(f"sleep {LOST_S}", mark), Output(), Lease(now(), 60.0))
    assert (result.exit_code, len(shims())) == (0, 1)


@pytest.mark.usefixtures("short")
@within(10)
async def test_a_process_that_ended_by_itself_keeps_its_result_whoever_ends_its_leftovers(
    processes: Processes, mark: str, tmp_path: Path
) -> None:
    began, daemon = now(), "setsid sh -c 'trap : TERM; touch ready; while :; do sleep 0.05; done' &"
    script = f"{daemon} while [ ! -e ready ]; do sleep 0.01; done; exit 3"
    result = await processes.execute(shell(script, mark, cwd=tmp_path), Output(), Lease(began, 0.0))
    assert now() - began >= KILL_S
    assert result.exit_code == 3


@within(10)
async def test_an_alarm_rings_at_its_moment_and_not_before() -> None:
    alarm = Alarm()
    assert alarm.fd is not None
    for moment in (math.inf, now() + 60, (due := now() + 0.2)):
        alarm.set(moment)
    await trio.lowlevel.wait_readable(alarm.fd)
    assert now() >= due
    os.close(alarm.fd)


async def start_worker(store: Store, nursery: trio.Nursery) -> None:
    registry = discover()
    link = LocalLink(store, Node(id="w1", types=frozenset(registry.task_types), labels={}, slots=8, running=0))
    await nursery.start(link.run)
    await nursery.start(Worker(link, registry, slots=8).run)


async def submit(store: Store, command: str, **options: Any) -> str:
    spec = RunSpec(type="shell", params={"command": command}, **options)
    return (await store.runs.submit([Submission(new_run_id(), spec)], by="test"))[0].run_id


async def ended(store: Store, run_id: str) -> Run:
    while not (run := await store.runs.get(run_id)).is_final:
        await trio.sleep(0.01)
    return run


def at_work(run_id: str) -> list[int]:
    """The processes of a run, but for those that are being reaped."""
    return [pid for pid in carrying(run_id) if state(pid) != "X"]


@pytest.mark.usefixtures("short")
@within(20)
async def test_what_could_not_be_renewed_is_given_back_as_lost(
    store: Store, nursery: trio.Nursery, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    await start_worker(store, nursery)
    run_id = await submit(store, LASTING.format(trace), lost_grace_s=0.0)
    await until(lambda: trace.exists() and trace.read_text())
    await store.connection.execute("CONFIG", "SET", "min-replicas-to-write", 1)
    await until(lambda: not at_work(run_id))
    await store.connection.execute("CONFIG", "SET", "min-replicas-to-write", 0)
    run = await ended(store, run_id)
    assert [attempt.state for attempt in run.attempts] == ["lost", "succeeded"]
    assert trace.read_text() == "1\n2\n"


@pytest.mark.usefixtures("short")
@within(20)
async def test_a_lease_counts_from_the_question_and_not_from_a_late_answer(
    store: Store, nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, delays = store.runs.claim, [STOP_S]

    async def answered_late(*args: Any, **options: Any) -> Any:
        claimed = await claim(*args, **options)
        if claimed and delays:
            await trio.sleep(delays.pop())
        return claimed

    monkeypatch.setattr(store.runs, "claim", answered_late)
    await start_worker(store, nursery)
    run_id = await submit(store, f"echo $TASKMAN_ATTEMPT >> {tmp_path}/trace", lost_grace_s=0.0)
    run = await ended(store, run_id)
    assert [attempt.state for attempt in run.attempts] == ["lost", "succeeded"]
    assert (tmp_path / "trace").read_text() == "2\n"


@pytest.mark.slow
@pytest.mark.parametrize("given_away", [False, True])
@within(60)
async def test_a_worker_that_stands_still_loses_its_run_and_says_no_more_of_it_than_that(
    store: Store, redis_url: str, nursery: trio.Nursery, tmp_path: Path, given_away: bool
) -> None:
    trace, command = tmp_path / "trace", [sys.executable, str(PROGRAM), redis_url, "1000000"]
    start = partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
    worker: trio.Process = await nursery.start(start)
    run_id = await submit(store, LASTING.format(trace), lost_grace_s=0.0)
    await until(lambda: trace.exists() and trace.read_text())
    worker.send_signal(signal.SIGSTOP)
    await until(lambda: not at_work(run_id))
    assert (await store.runs.get(run_id)).state is State.RUNNING
    if given_away:
        await store.runs.reclaim_from("w1")
    worker.send_signal(signal.SIGCONT)
    run = await ended(store, run_id)
    worker.kill()
    assert [attempt.state for attempt in run.attempts] == ["lost", "succeeded"]
    assert trace.read_text() == "1\n2\n"
