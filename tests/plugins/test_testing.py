"""taskman.testing: what plugin authors test with behaves as a worker does."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from pydantic import BaseModel

from taskman import Fatal, RetryAfter, TaskContext, TaskFailed, TaskType
from taskman.errors import InvalidInput, PluginError
from taskman.testing import Line, run_task_type, run_task_type_async


class Probe(TaskType):
    """Does what its params say."""

    name = "probe"
    version = "1"

    class Params(BaseModel):
        what: str
        value: Any = None

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}

    async def run(self, context: TaskContext, params: Params) -> Any:
        return await getattr(self, params.what)(context, params.value)

    async def returns(self, context: TaskContext, value: Any) -> Any:
        return value

    async def raises(self, context: TaskContext, value: Any) -> None:
        kinds = {"fatal": Fatal("never"), "later": RetryAfter(90, "later"), "failed": TaskFailed("exit", "no", [1])}
        raise kinds.get(value, KeyError(value))

    async def tells(self, context: TaskContext, value: Any) -> Any:
        return {
            "run_id": context.run_id,
            "key": context.idempotency_key,
            "attempt": context.attempt,
            "task": context.task,
            "fire_time": context.fire_time,
            "env": dict(context.env),
            "secrets": dict(context.secrets),
        }

    async def reports(self, context: TaskContext, value: int) -> None:
        for number in range(value):
            await context.progress(number, value)

    async def executes(self, context: TaskContext, value: list[str]) -> Any:
        ended = await context.run_process(value, env={"MORE": "1"}, cwd=context.scratch_dir)
        self.seen["scratch"] = context.scratch_dir
        return {"exit_code": ended.exit_code, "signal": ended.signal}

    async def waits(self, context: TaskContext, value: Any) -> None:
        context.result_so_far = "so far"
        context.log("ready")
        try:
            await trio.sleep_forever()
        finally:
            context.log("cleaned up", "sys")

    async def works_in_silence(self, context: TaskContext, value: int) -> str:
        for _ in range(value):
            await trio.sleep(0.15)
            await context.progress(1)
        return "done"


def test_a_result() -> None:
    outcome = run_task_type(Probe(), {"what": "returns", "value": {"n": [1, "ü"]}})
    assert (outcome.state, outcome.result, outcome.error, outcome.reason) == ("succeeded", {"n": [1, "ü"]}, None, None)


def test_params_may_be_the_model() -> None:
    assert run_task_type(Probe(), Probe.Params(what="returns", value=1)).result == 1


def test_params_are_checked_as_the_api_does() -> None:
    with pytest.raises(InvalidInput, match="/params/what: 'what' is required"):
        run_task_type(Probe(), {})


def test_a_type_that_no_server_would_take_is_refused() -> None:
    class Nameless(Probe):
        name = "two words"

    with pytest.raises(PluginError, match="cannot be called 'two words'"):
        run_task_type(Nameless(), {"what": "returns"})


@pytest.mark.parametrize(
    ("value", "reason", "error", "result", "retry_after"),
    [
        ("x", "error", "KeyError: 'x'", None, None),
        ("fatal", "error", "never", None, None),
        ("later", "error", "later", None, 90),
        ("failed", "exit", "no", [1], None),
    ],
)
def test_what_it_raises(value: str, reason: str, error: str, result: Any, retry_after: float | None) -> None:
    outcome = run_task_type(Probe(), {"what": "raises", "value": value})
    assert (outcome.state, outcome.reason, outcome.error) == ("failed", reason, error)
    assert (outcome.result, outcome.retry_after) == (result, retry_after)
    assert outcome.exception is not None
    assert outcome.exception.__traceback__ is not None


def test_a_result_that_is_no_json_fails() -> None:
    class Odd(Probe):
        async def returns(self, context: TaskContext, value: Any) -> Any:
            return object()

    assert "cannot be written as JSON" in (run_task_type(Odd(), {"what": "returns"}).error or "")


def test_the_context_is_as_asked() -> None:
    options = {"attempt": 3, "task": "nightly", "fire_time_ms": 1_700_000_000_000, "env": {"A": "b"}}
    result = run_task_type(Probe(), {"what": "tells"}, **options).result  # type: ignore[arg-type]  # by name
    assert result["key"] == result["run_id"]
    assert (result["attempt"], result["task"], result["env"], result["secrets"]) == (3, "nightly", {"A": "b"}, {})
    assert result["fire_time"].startswith("2023-11-14T22:13:20")


def test_every_report_of_progress_is_there() -> None:
    outcome = run_task_type(Probe(), {"what": "reports", "value": 100})
    assert [one.done for one in outcome.progress] == list(range(100))


def test_processes_are_real_and_their_lines_come_in_order() -> None:
    probe = Probe()
    script = "echo one; echo two >&2; sleep 0.3; printf 'three'; echo $MORE$TASKMAN_ATTEMPT > file; kill -9 $$"
    outcome = run_task_type(probe, {"what": "executes", "value": ["sh", "-c", script]})
    assert outcome.result == {"exit_code": None, "signal": "SIGKILL"}
    assert sorted(outcome.lines[:2], key=lambda line: line.text) == [Line("one", "out"), Line("two", "err")]
    assert outcome.lines[2:] == [Line("three", "out")]
    assert not probe.seen["scratch"].exists()


def test_what_the_type_serves_is_there_while_it_runs() -> None:
    class Pooled(Probe):
        async def serve(self, worker: Any, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            self.seen["pool"] = worker.worker
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self.seen["closed"] = True

        async def returns(self, context: TaskContext, value: Any) -> Any:
            return [self.seen["pool"] == context.worker, "closed" in self.seen]

    probe = Pooled()
    assert run_task_type(probe, {"what": "returns"}).result == [True, False]
    assert probe.seen["closed"]


def test_a_timeout_ends_it_and_its_processes() -> None:
    outcome = run_task_type(Probe(), {"what": "executes", "value": ["sh", "-c", "echo $$; sleep 60"]}, timeout=0.5)
    assert (outcome.state, outcome.reason) == ("failed", "timeout")
    with pytest.raises(ProcessLookupError):
        os.kill(int(outcome.lines[0].text), signal.SIG_DFL)


def test_silence_ends_it_and_progress_is_a_sign_of_life() -> None:
    outcome = run_task_type(Probe(), {"what": "waits"}, idle_timeout=0.2)
    assert (outcome.reason, outcome.result) == ("idle_timeout", "so far")
    assert run_task_type(Probe(), {"what": "works_in_silence", "value": 4}, idle_timeout=0.4).result == "done"


def test_it_is_cancelled_when_the_test_says_so() -> None:
    outcome = run_task_type(Probe(), {"what": "waits"}, cancel_when=lambda so_far: "ready" in so_far.log)
    assert (outcome.state, outcome.reason, outcome.result) == ("cancelled", "requested", "so far")
    assert outcome.lines == [Line("ready", "out"), Line("cleaned up", "sys")]


async def test_within_trio_with_a_clock_that_jumps(autojump_clock: trio.testing.MockClock) -> None:
    outcome = await run_task_type_async(Probe(), {"what": "waits"}, timeout=3600)
    assert outcome.reason == "timeout"


async def test_cancelling_the_test_cancels_the_task() -> None:
    probe = Probe()
    with trio.move_on_after(0.5) as scope:
        await run_task_type_async(probe, {"what": "executes", "value": ["sleep", "60"]}, grace=1)
    assert scope.cancelled_caught


def test_nothing_is_left_in_the_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run_task_type(Probe(), {"what": "executes", "value": ["touch", "file"]})
    assert list(tmp_path.iterdir()) == []
