"""Process trees end to the last process, whoever asks for it, and whoever is killed."""

from __future__ import annotations

import functools
import os
import signal
import sys
from io import FileIO
from pathlib import Path

import pytest
import trio
import trio.testing
from runtime.trees import (
    TREES,
    Output,
    cancel_when_ready,
    carrying,
    looks_in_proc,
    shell,
    shims,
    spec,
    until,
    within,
)

from taskman.errors import ShimLost
from taskman.runtime import process_tree
from taskman.runtime.process import Processes

pytestmark = looks_in_proc


class Stuck:
    """An output that takes something, and never returns."""

    def __init__(self) -> None:
        self.taken = trio.Event()

    async def output(self, stream: str, data: bytes) -> None:
        self.taken.set()
        await trio.sleep_forever()


def stdout_of(pid: int) -> FileIO:
    """Open the pipe that a process writes to, as if it had been handed over."""
    return FileIO(f"/proc/{pid}/fd/1", "w")


@pytest.mark.parametrize("tree", TREES)
@within(20)
async def test_cancelling_leaves_nothing_of(processes: Processes, mark: str, tree: str) -> None:
    await cancel_when_ready(processes, shell(TREES[tree], mark, grace_s=0.2), Output())
    assert carrying(mark) == []
    assert (await processes.execute(spec("true"), Output())).exit_code == 0
    assert len(shims()) == 1


@within(10)
async def test_a_cancelled_process_can_clean_up_and_its_last_words_are_kept(processes: Processes, mark: str) -> None:
    output = Output()
    script = 'trap "echo cleaned; exit" TERM; echo ready; while :; do sleep 0.01; done'
    await cancel_when_ready(processes, shell(script, mark), output)
    assert output.bytes["out"] == b"ready\ncleaned\n"


@within(10)
async def test_what_the_main_process_leaves_behind_is_ended(processes: Processes, mark: str, tmp_path: Path) -> None:
    output = Output()
    daemon = 'trap "echo ended; exit" TERM; touch ready; while :; do sleep 0.01; done'
    script = f"setsid sh -c '{daemon}' & setsid sleep 1000 & while [ ! -e ready ]; do sleep 0.01; done; exit 7"
    result = await processes.execute(shell(script, mark, cwd=tmp_path), output)
    assert result.exit_code == 7
    assert output.bytes["out"] == b"ended\n"
    assert carrying(mark) == []


@within(10)
async def test_a_pipe_held_by_a_stranger_does_not_hold_the_run(processes: Processes, mark: str) -> None:
    output = Output()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(processes.execute, shell("echo ready; exec sleep 1000", mark), output)
        await until(lambda: output.has(b"ready"))
        (main,) = carrying(mark)
        with stdout_of(main) as held:
            held.write(b"the last")
            os.kill(main, signal.SIGKILL)
            await until(lambda: not nursery.child_tasks)
    assert output.bytes["out"] == b"ready\nthe last"


@pytest.mark.parametrize("command", ["echo ready", "echo ready; sleep 1000"])
@within(10)
async def test_an_output_that_fails_ends_the_tree_and_is_raised_as_it_is(
    processes: Processes, mark: str, command: str
) -> None:
    async def fail(stream: str, data: bytes) -> None:
        raise KeyError(stream)

    with pytest.raises(KeyError, match="out"):
        await processes.execute(shell(command, mark), fail)
    assert carrying(mark) == []


@pytest.mark.parametrize("lasting_s", [0, 0.1])
@within(10)
async def test_what_was_written_before_the_shim_was_killed_is_kept(
    processes: Processes, mark: str, lasting_s: float
) -> None:
    output = Output()
    with pytest.raises(ShimLost):
        await processes.execute(shell(f"echo last words; sleep {lasting_s}; kill -9 $PPID", mark), output)
    assert output.bytes["out"] == b"last words\n"


@pytest.mark.parametrize("after_s", [0.0, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03])
@within(10)
async def test_it_can_be_cancelled_at_any_moment_and_what_was_written_is_kept(
    processes: Processes, mark: str, after_s: float
) -> None:
    output = Output()
    with trio.move_on_after(after_s) as scope:
        await processes.execute(shell("trap 'echo bye; exit' TERM; echo ready; sleep 1000 & wait", mark), output)
    assert scope.cancelled_caught
    assert carrying(mark) == []
    assert output.bytes["out"] in (b"", b"ready\n", b"ready\nbye\n")


@within(10)
async def test_what_a_short_process_wrote_is_passed_on_whole_and_in_order(processes: Processes, mark: str) -> None:
    for size in (0, 1, 65_536, 200_000):
        output = Output()
        result = await processes.execute(shell(f"yes x | head -c {size}; echo done >&2", mark), output)
        assert (result.exit_code, len(output.bytes["out"]), output.bytes["err"]) == (0, size, b"done\n")


@pytest.mark.parametrize("command", ["echo ready", "echo ready; sleep 1000"])
@within(10)
async def test_an_output_that_never_returns_does_not_hold_up_the_cancelling(
    processes: Processes, mark: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_tree, "STOP_MARGIN_S", 0.2)
    stuck = Stuck()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(processes.execute, shell(command, mark, grace_s=0.2), stuck.output)
        await stuck.taken.wait()
        nursery.cancel_scope.cancel()
    assert carrying(mark) == []


@within(10)
async def test_ending_the_pool_does_not_wait_for_an_output_that_never_returns(
    mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_tree, "STOP_MARGIN_S", 0.2)
    pool, stuck = Processes(), Stuck()
    async with trio.open_nursery() as runs, trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        runs.start_soon(pool.execute, shell("echo ready", mark), stuck.output)
        await stuck.taken.wait()
        nursery.cancel_scope.cancel()


@within(10)
async def test_ending_the_pool_ends_its_trees_and_its_shims(mark: str) -> None:
    pool, output, results = Processes(), Output(), []

    async def execute() -> None:
        results.append(await pool.execute(shell("echo ready; sleep 1000", mark), output))

    async with trio.open_nursery() as runs, trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        runs.start_soon(execute)
        await until(lambda: output.has(b"ready"))
        nursery.cancel_scope.cancel()
    assert [result.signal for result in results] == ["SIGTERM"]
    assert (carrying(mark), shims()) == ([], set())
    with pytest.raises(RuntimeError, match="not running"):
        await pool.execute(spec("true"), output)


WORKER = """
import os, sys, trio
from taskman.runtime.process import Processes, ProcessSpec
async def output(stream, data):
    os.write(1, data)
async def main():
    async with trio.open_nursery() as nursery:
        processes = Processes()
        await nursery.start(processes.run)
        for script in sys.argv[1:]:
            spec = ProcessSpec(["/bin/sh", "-c", script, os.environ["MARK"]], None, dict(os.environ), None, None, 60.0)
            nursery.start_soon(processes.execute, spec, output)
trio.run(main)
"""


@within(20)
async def test_killing_the_worker_leaves_no_process_and_no_shim(mark: str) -> None:
    names = ("a child that left the session", "a daemon without its environment", "a tree that ignores SIGTERM")
    argv = [sys.executable, "-c", WORKER, *(TREES[name] for name in names)]
    async with trio.open_nursery() as nursery:
        start = functools.partial(trio.run_process, argv, env=os.environ | {"MARK": mark}, check=False)
        worker: trio.Process = await nursery.start(functools.partial(start, stdout=-1, capture_stdout=False))
        assert worker.stdout
        seen = b""
        while seen.count(b"ready") < len(names):
            seen += await worker.stdout.receive_some()
        worker.kill()
        await until(lambda: not carrying(mark))
