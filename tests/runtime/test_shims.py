"""Shims are used again, missed when they are gone, and given up when there are too many."""

from __future__ import annotations

import os
import signal

import pytest
import trio
import trio.testing
from runtime.trees import (
    Output,
    carrying,
    looks_in_proc,
    shell,
    shims,
    spec,
    until,
    within,
)

from taskman.errors import ShimLost
from taskman.runtime.process import Processes
from taskman.runtime.shim.table import processes as table

pytestmark = looks_in_proc


def wait_for_death(child: int) -> None:
    """Block until a child is a zombie."""
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)


@within(10)
async def test_killing_a_shim_fails_its_run_and_ends_its_tree(processes: Processes, mark: str) -> None:
    output = Output()

    async def execute() -> None:
        with pytest.raises(ShimLost):
            await processes.execute(shell("setsid sleep 1000 & env -i sleep 1001 & echo ready; wait", mark), output)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(execute)
        await until(lambda: output.has(b"ready"))
        (lost,) = shims()
        os.kill(lost, signal.SIGKILL)
    assert carrying(mark) == []
    assert (await processes.execute(spec("true"), Output())).exit_code == 0
    assert lost not in shims()


@within(10)
async def test_a_shim_killed_while_idle_is_not_missed(processes: Processes) -> None:
    await processes.execute(spec("true"), Output())
    (lost,) = shims()
    os.kill(lost, signal.SIGKILL)
    wait_for_death(lost)  # without letting the pool notice
    assert (await processes.execute(spec("true"), Output())).exit_code == 0


@within(10)
async def test_a_shim_survives_the_signals_meant_for_the_worker(processes: Processes) -> None:
    await processes.execute(spec("true"), Output())
    (kept,) = shims()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        os.kill(kept, number)
    await processes.execute(spec("true"), Output())
    assert shims() == {kept}


@within(60)
async def test_a_thousand_runs_reuse_shims_and_leak_nothing(processes: Processes) -> None:
    numbers = iter(range(1000))

    async def work() -> None:
        for _ in numbers:
            assert (await processes.execute(spec("/bin/true"), Output())).exit_code == 0

    async def work_by_eight() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(work)

    await processes.execute(spec("/bin/true"), Output())
    strangers = {child.pid for child in table() if child.parent == os.getpid()} - shims()  # of tests before this one
    before, fds = shims(), len(os.listdir("/proc/self/fd"))
    await work_by_eight()
    children = {child.pid for child in table() if child.parent in {os.getpid(), *shims()}} - strangers
    assert before <= shims() == children
    assert len(children) <= 8
    per_shim = (len(os.listdir("/proc/self/fd")) - fds) / max(1, len(children - before))
    assert per_shim in (0, 2)  # its lifeline, and what trio waits for its exit with


@within(3600)  # by the mock clock
async def test_idle_shims_beyond_a_few_are_retired(processes: Processes, mock_clock: trio.testing.MockClock) -> None:
    output = Output()
    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(processes.execute, spec("cat", stdin=b"."), output)
    started = len(shims())
    assert 1 < started <= 6
    mock_clock.rate = 1000.0
    await until(lambda: len(shims()) <= 4)
