"""Functions called by a worker: results, failures, output, and what they can ask."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from taskman.model.states import State

pytestmark = pytest.mark.filterwarnings("ignore:warned")


@pytest.mark.parametrize("name", ["add", "add_async"])
async def test_arguments_go_in_and_the_result_comes_out(caller: Any, name: str) -> None:
    run = await caller.call(name, 2, kwargs={"b": 40})
    assert (run.state, run.result, run.error) == (State.SUCCEEDED, 42, None)


async def test_a_method_of_a_class_can_be_named(caller: Any) -> None:
    assert (await caller.call("Group.inside")).result == "inside"


async def test_a_plain_function_runs_in_a_process_that_is_kept(caller: Any, own_pid: int) -> None:
    first, second = [(await caller.call("pid")).result for _ in range(2)]
    assert first == second != own_pid


async def test_an_async_function_runs_in_the_worker(caller: Any, own_pid: int) -> None:
    assert (await caller.call("pid_async")).result == own_pid


@pytest.mark.parametrize(
    ("name", "args", "error"),
    [
        ("add", [], r"the arguments do not fit '.*:add\(a, b=1\)': missing a required argument: 'a'"),
        ("add", [1, 2, 3], "too many positional arguments"),
        ("add_async", [1, 2, 3], "too many positional arguments"),
        ("unmarked", [], "is not allowed on this worker: mark it with @taskman.task, or start the worker with"),
        ("ad", [], "is not allowed on this worker; did you mean 'add'"),
        ("no_such_module:add", [], "there is no module 'no_such_module' on this worker"),
        ("os:system", ["true"], "'os:system' is not allowed on this worker"),
    ],
)
async def test_what_cannot_be_called_is_rejected_with_the_remedy(
    caller: Any, name: str, args: list[Any], error: str
) -> None:
    run = await caller.call(name, *args, retry={"max_attempts": 3})
    assert (run.state, run.reason, run.attempt) == (State.FAILED, "rejected", 1)
    assert re.search(error, run.error), run.error


@pytest.mark.parametrize("name", ["raises", "raises_async"])
async def test_an_exception_is_the_error_and_its_own_frames_are_in_the_log(caller: Any, name: str) -> None:
    run = await caller.call(name)
    assert (run.state, run.reason, run.error) == (State.FAILED, "error", "ValueError: bad")
    log = (await caller.log(run.id))["err"]
    assert log.startswith("Traceback (most recent call last):\n  File ")
    assert log.endswith("ValueError: bad\n")
    assert f'{caller.module}.py", line' in log.splitlines()[1]
    assert "taskman_python" not in log


@pytest.mark.parametrize("name", ["raises", "raises_async"])
async def test_fatal_is_not_tried_again(caller: Any, name: str) -> None:
    run = await caller.call(name, "Fatal", retry={"max_attempts": 3})
    assert (run.state, run.attempt, run.error) == (State.FAILED, 1, "no use")
    assert (await caller.log(run.id))["err"] == ""


@pytest.mark.parametrize("name", ["raises", "raises_async"])
async def test_retry_after_is_tried_again(caller: Any, name: str) -> None:
    run_id = await caller.submit(name, "RetryAfter", retry={"max_attempts": 2})
    run = await caller.until(run_id, lambda run: run.attempt == 1 and run.state != State.RUNNING)
    assert run.state == State.SCHEDULED
    assert run.due_ms - run.created_ms > 3_600_000


@pytest.mark.parametrize("name", ["raises", "raises_async"])
async def test_a_task_can_fail_with_a_reason_of_its_own(caller: Any, name: str) -> None:
    run = await caller.call(name, "TaskFailed")
    assert (run.reason, run.error, run.result) == ("signal", "of my own", {"kept": 1})


@pytest.mark.parametrize("name", ["raises", "raises_async"])
async def test_exit_is_a_failure_and_ends_nothing_else(caller: Any, name: str) -> None:
    run = await caller.call(name, "SystemExit")
    assert (run.state, run.error) == (State.FAILED, "SystemExit: 3")
    assert (await caller.call("add", 1)).result == 2


async def test_what_a_nursery_raises_counts_as_what_it_holds(caller: Any) -> None:
    run = await caller.call("raises_in_nursery", retry={"max_attempts": 3})
    assert (run.attempt, run.error) == (1, "in the nursery")


async def test_a_type_error_of_the_function_is_no_misfit_of_arguments(caller: Any) -> None:
    run = await caller.call("raises_type_error")
    assert (run.reason, run.error) == ("error", "TypeError: object of type 'int' has no len()")


@pytest.mark.parametrize(
    ("what", "result"),
    [("none", None), ("tuple", [1, 2]), ("deep", {"a": [1, {"b": None}]}), ("large", "x" * 1_000_000)],
)
async def test_any_json_is_a_result(caller: Any, what: str, result: Any) -> None:
    assert (await caller.call("returns", what)).result == result


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("set", "the result cannot be written as JSON: Object of type set"),
        ("nan", "the result cannot be written as JSON: Out of range float"),
        ("big", "at most 1,048,576 are kept"),
    ],
)
async def test_any_other_result_fails_and_the_process_is_kept(caller: Any, what: str, error: str) -> None:
    before = (await caller.call("pid")).result
    run = await caller.call("returns", what)
    assert (run.state, run.reason) == (State.FAILED, "error")
    assert error in run.error
    assert (await caller.call("pid")).result == before


async def test_a_plain_function_that_returns_a_coroutine_is_told_how(caller: Any) -> None:
    run = await caller.call("returns_coroutine")
    assert run.error == "TypeError: the function returned a coroutine: define it with `async def`"


async def test_all_that_a_function_writes_is_the_log(caller: Any) -> None:
    log = await caller.log((await caller.call("speaks")).id)
    assert log["out"].count("from C\n") == 1  # C keeps it until it sees fit, at the latest until the call is over
    assert log["out"].replace("from C\n", "") == "printed\nfrom a process\nno newline at the end"
    err = log["err"].splitlines()
    assert err[:2] == ["to err", "INFO lib: logged"]
    assert "UserWarning: warned" in err[2]


async def test_all_that_an_async_function_prints_and_logs_is_its_log(
    caller: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)  # as a server has it
    log = await caller.log((await caller.call("speaks_async")).id)
    assert log["out"] == "printed\nfrom a thread\nno newline at the end\n"
    assert log["err"] == "to err\nINFO lib: logged\n"
    assert "printed" not in capfd.readouterr().out


async def test_async_functions_at_the_same_time_keep_their_logs_apart(caller: Any) -> None:
    runs = [await caller.submit("speaks_in_turns", str(number), 50) for number in range(5)]
    for number, run_id in enumerate(runs):
        run, log = await caller.until(run_id), await caller.log(run_id)
        assert (run.state, log["err"]) == ("succeeded", "")
        assert log["out"] == "".join(f"{number} {turn}\n" for turn in range(50))


async def test_what_the_worker_itself_prints_goes_where_it_went(
    caller: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    await caller.call("speaks_async")
    print("from the worker")
    assert "from the worker" in capsys.readouterr().out


async def test_each_call_gets_all_of_its_output_and_nothing_else(caller: Any) -> None:
    for lines in (20_000, 3, 0, 500):
        run = await caller.call("floods", lines)
        assert (await caller.log(run.id))["out"] == "".join(f"{number}\n" for number in range(lines))


@pytest.mark.parametrize("name", ["context", "context_async"])
async def test_a_function_can_ask_for_its_run(caller: Any, name: str) -> None:
    run = await caller.call(name, env={"COLOUR": "blue"}, task="painting")
    expected = [run.id, 1, "painting", "w1", {"COLOUR": "blue"}, run.id]
    assert run.result[:6] == expected
    log = await caller.log(run.id)
    assert log["out"] == "told\n"
    if name == "context":
        assert (run.result[6], log["sys"]) == (run.id, "by the system\n")


async def test_the_environment_of_one_run_is_not_that_of_the_next(caller: Any) -> None:
    assert (await caller.call("environment", "COLOUR", env={"COLOUR": "blue"})).result == "blue"
    assert (await caller.call("environment", "COLOUR")).result is None
    assert (await caller.call("environment", "TASKMAN_RUN_ID")).result is not None


async def test_neither_are_its_directory_and_its_streams(caller: Any) -> None:
    home = (await caller.call("where")).result
    await caller.call("goes_away")
    await caller.call("replaces_stdout")
    assert (await caller.call("where")).result == home
    assert (await caller.log((await caller.call("floods", 1)).id))["out"] == "0\n"
