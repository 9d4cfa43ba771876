"""How calls end that do not simply return: cancelled, timed out, killed; and what they leave behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from taskman.model.states import State
from taskman.plugins import PluginRegistry

Alive = Callable[[int], bool]


def numbers(log: str, word: str) -> list[int]:
    """The numbers behind a word at the beginning of a line."""
    return [int(part) for line in log.splitlines() if line.startswith(word) for part in line.split()[1:]]


async def test_a_cancelled_function_can_clean_up(caller: Any, alive: Alive) -> None:
    run_id = await caller.submit("sleeps", grace_s=20)
    await caller.until_logged(run_id, "asleep")
    await caller.store.runs.cancel(run_id, by="test")
    run = await caller.until(run_id)
    log = (await caller.log(run_id))["out"]
    assert (run.state, log.splitlines()[1:]) == (State.CANCELLED, ["cleaned up"])
    assert not alive(numbers(log, "asleep")[0])
    assert (await caller.call("add", 1)).result == 2


async def test_a_cancelled_async_function_can_clean_up(caller: Any) -> None:
    await caller.call("add_async", 1)
    run_id = await caller.submit("sleeps_async")
    await caller.until_logged(run_id, "asleep")
    await caller.store.runs.cancel(run_id, by="test")
    assert (await caller.until(run_id)).state == State.CANCELLED
    assert (await caller.log(run_id))["out"] == "asleep\ncleaned up\n"


async def test_what_ignores_a_cancel_is_killed_after_the_grace_with_all_it_started(caller: Any, alive: Alive) -> None:
    run_id = await caller.submit("stubborn", grace_s=0.3)
    await caller.until_logged(run_id, "pids")
    pids = numbers((await caller.log(run_id))["out"], "pids")
    assert [alive(pid) for pid in pids] == [True] * 3
    await caller.store.runs.cancel(run_id, by="test")
    assert (await caller.until(run_id)).state == State.CANCELLED
    assert [alive(pid) for pid in pids] == [False] * 3


async def test_a_forced_cancel_does_not_wait_for_the_grace(caller: Any, alive: Alive) -> None:
    run_id = await caller.submit("stubborn", grace_s=600)
    await caller.until_logged(run_id, "pids")
    await caller.store.runs.cancel(run_id, by="test", force=True)
    assert (await caller.until(run_id)).state == State.CANCELLED
    assert not any(alive(pid) for pid in numbers((await caller.log(run_id))["out"], "pids"))


async def test_a_timeout_ends_a_function(caller: Any) -> None:
    await caller.call("pid")  # else the timeout might be over before the process has started
    run = await caller.call("sleeps", timeout_s=2, grace_s=20)
    assert (run.state, run.reason) == (State.FAILED, "timeout")
    assert "cleaned up" in (await caller.log(run.id))["out"]


@pytest.mark.parametrize("name", ["leaves_process", "leaves_orphan"])
async def test_processes_that_a_call_leaves_behind_are_gone_when_it_is_over(
    caller: Any, alive: Alive, name: str
) -> None:
    before = (await caller.call("pid")).result
    run = await caller.call(name)
    assert run.state == State.SUCCEEDED
    assert not alive(run.result)
    assert (await caller.call("pid")).result != before


async def test_a_process_with_a_thread_left_behind_is_not_used_again(caller: Any, alive: Alive) -> None:
    run = await caller.call("leaves_thread")
    assert run.state == State.SUCCEEDED
    assert not alive(run.result)
    assert (await caller.call("pid")).result != run.result


async def test_a_dead_process_that_nobody_waited_for_does_no_harm(caller: Any) -> None:
    first = (await caller.call("reaps_nothing")).result
    assert isinstance(first, int)
    assert (await caller.call("add", 1)).result == 2


@pytest.mark.parametrize(
    ("how", "reason", "error"),
    [
        ("signal", "signal", "its process was ended by SIGSEGV before the function returned"),
        ("3", "exit", "its process ended with exit code 3 before the function returned"),
        ("0", "exit", "its process ended with exit code 0 before the function returned"),
    ],
)
async def test_the_death_of_the_process_is_a_failure_of_that_run_alone(
    caller: Any, how: str, reason: str, error: str
) -> None:
    run = await caller.call("dies", how)
    assert (run.state, run.reason, run.error) == (State.FAILED, reason, error)
    assert (await caller.log(run.id))["out"] == "last words\n"
    assert (await caller.call("add", 1)).result == 2


async def test_an_idle_process_that_died_is_replaced(caller: Any, alive: Alive) -> None:
    pid = (await caller.call("pid")).result
    os.kill(pid, signal.SIGKILL)
    with trio.fail_after(10):
        while alive(pid):
            await trio.sleep(0.01)
    again = (await caller.call("pid")).result
    assert again != pid
    assert alive(again)


async def test_a_function_that_closes_its_output_spoils_only_its_own_process(caller: Any) -> None:
    assert (await caller.call("closes_output")).result == "closed"
    run = await caller.call("floods", 2)
    assert (await caller.log(run.id))["out"] == "0\n1\n"


async def test_calls_at_the_same_time_have_processes_of_their_own(caller: Any, tmp_path: Path) -> None:
    runs = [await caller.submit("waits_for", str(tmp_path / "go")) for _ in range(5)]
    for run_id in runs:
        await caller.until_logged(run_id, "waits")
    pids = {numbers((await caller.log(run_id))["out"], "waits")[0] for run_id in runs}
    assert len(pids) == 5
    (tmp_path / "go").touch()
    assert {(await caller.until(run_id)).result for run_id in runs} == {"seen"}


async def test_a_process_that_has_grown_is_replaced(caller: Any) -> None:
    first = (await caller.call("grows", 1)).result
    assert (await caller.call("grows", 300 * 1024**2)).result == first
    assert (await caller.call("grows", 1)).result != first


async def test_a_process_is_replaced_after_many_calls(
    caller: Any, registry: PluginRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = registry.task_types["python"]._pools["w1"]  # type: ignore[attr-defined]  # the limit is no setting
    monkeypatch.setattr(pool, "_limits", type(pool._limits)(calls=2))
    pids = [(await caller.call("pid")).result for _ in range(5)]
    assert [pids.index(pid) for pid in pids] == [0, 0, 2, 2, 4]


async def test_processes_end_with_the_worker(caller: Any, worker: Any, alive: Alive, registry: PluginRegistry) -> None:
    pid = (await caller.call("pid")).result
    await worker.drain(1)
    with trio.fail_after(10):
        while alive(pid):
            await trio.sleep(0.01)
