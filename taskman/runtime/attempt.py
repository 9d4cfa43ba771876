"""One attempt: from its assignment to its outcome, with its log, its timeout and the reasons to end it early."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio

from ..errors import Fatal, InvalidInput, LeaseEnded, RetryAfter, ShimLost, StoreUnavailable
from ..model.instants import format_instant
from ..model.run import RunSpec
from ..plugins import PluginRegistry
from ..store.logs import Chunk
from ..store.runs import Assignment, Outcome
from ..tasktypes import ProcessResult, TaskContext, TaskFailed
from .lease import Lease
from .link import Link
from .logsink import LogSink
from .process import Processes, ProcessSpec

__all__ = ["RunningAttempt"]

RESULT_LIMIT = 1024 * 1024
_RETRY_S = 0.5
_OUTCOMES: dict[str | None, str] = {"cancelled": "cancelled", "released": "released"}


class RunningAttempt:
    """An attempt that this worker holds. `end` stops it early; `run` tells how it went."""

    def __init__(
        self, assignment: Assignment, lease: Lease, link: Link, registry: PluginRegistry,
        processes: Processes, nursery: trio.Nursery,
    ) -> None:  # fmt: skip
        """`nursery` is the worker's: there the log is delivered while the task works, once there is any."""
        self.run_id, self.number, self.spec = assignment.run_id, assignment.attempt, assignment.spec
        self.lease = lease
        self._link, self._registry = link, registry
        self._nursery, self._is_over = nursery, False
        self._sink: LogSink | None = None
        self._on_output: Callable[[], None] | None = None
        self._scope = trio.CancelScope()
        self._context = _Context(self, link.worker, processes)
        self.ended_by: str | None = None
        self.failures = assignment.failures

    @property
    def is_dropped(self) -> bool:
        """Whether nothing of it is wanted any more: the lease is gone."""
        return self.ended_by == "dropped"

    def end(self, why: str) -> None:
        """Stop it: `cancelled` on request, `released` at shutdown, `dropped` when the lease is gone, and `unrenewed`
        when it will soon be gone: then the run is given back as lost, if it still is this worker's.
        """
        if self.ended_by is None or why == "dropped":
            self.ended_by = why
        self._scope.cancel()

    async def run(self) -> Outcome:
        """Execute the task type, deliver the log, and say how it ended. Never raises but for cancellation.

        Cancellation: the task is cancelled, its processes are ended, and the rest of the log is dropped.
        """
        try:
            outcome = await self._execute()
        finally:
            self._is_over = True
            if self._sink is not None:
                self._sink.close()
        if self._sink is not None:
            await self._sink.delivered.wait()
        return outcome

    @property
    def sink(self) -> LogSink:
        """Where output goes; made at the first piece of it, as a run that prints nothing shall cost no sink."""
        if self._sink is None:
            self._sink = LogSink(self._send, on_output=self._on_output)
            self._nursery.start_soon(self._sink.run)
            if self._is_over:
                self._sink.close()
        return self._sink

    async def output(self, stream: str, data: bytes) -> None:
        """Take output of a process, and wait while too much of it waits. Cancellation: the data has been taken."""
        await self.sink.output(stream, data)

    async def _execute(self) -> Outcome:
        try:
            with self._scope:
                return self._succeeded(await self._call_in_time())
        except BaseExceptionGroup as group:
            return self._judge(_first(group))
        except Exception as error:  # whatever a task type raises is its failure, not ours
            return self._judge(error)
        return self._outcome(_OUTCOMES.get(self.ended_by, "lost"))

    async def _call_in_time(self) -> Any:
        spec = self.spec
        if spec.timeout_s is None and spec.idle_timeout_s is None:
            return await self._call()
        with trio.move_on_after(_seconds(spec.timeout_s)), trio.move_on_after(_seconds(spec.idle_timeout_s)) as silence:
            self._on_output = partial(_postpone, silence, _seconds(spec.idle_timeout_s))
            return await self._call()
        if silence.cancelled_caught:
            raise TaskFailed("idle_timeout", f"gave no sign of life for {spec.idle_timeout_s:g} s")
        raise TaskFailed("timeout", f"took longer than its timeout of {spec.timeout_s:g} s")

    async def _call(self) -> Any:
        task_type = self._registry.task_type(self.spec.type)
        return await task_type.run(self._context, self._registry.read_params(self.spec.type, self.spec.params))

    def _judge(self, error: BaseException) -> Outcome:
        if not isinstance(error, Exception):
            raise error
        if self.ended_by is not None:
            return self._outcome(_OUTCOMES.get(self.ended_by, "lost"))
        if isinstance(error, (LeaseEnded, ShimLost)):  # killed: by the shim, or by somebody, or for want of memory
            return self._outcome("lost")
        if isinstance(error, TaskFailed):
            return self._failed(error.reason, str(error), error.result)
        if isinstance(error, InvalidInput):
            return self._failed("rejected", str(error))
        if isinstance(error, Fatal):
            return self._outcome("failed", "error", None, str(error))
        if isinstance(error, RetryAfter):
            allowed = self.failures + 1 < self.spec.policy.max_attempts
            return self._failed("error", str(error), error.result, error.seconds if allowed else None)
        return self._failed("error", f"{type(error).__name__}: {error}")

    def _succeeded(self, result: Any) -> Outcome:
        if result is None:
            return self._outcome("succeeded")
        try:
            size = len(json.dumps(result))
        except (TypeError, ValueError) as error:
            return self._failed("error", f"the result cannot be written as JSON: {error}")
        if size > RESULT_LIMIT:
            return self._failed("error", f"the result has {size:,} bytes as JSON: at most {RESULT_LIMIT:,} are kept")
        return self._outcome("succeeded", result=result)

    def _failed(self, reason: str, message: str, result: Any = None, wait_s: float | None = None) -> Outcome:
        """Failed for good, or, where the policy has it so, to be tried again after a while."""
        if wait_s is None and reason != "rejected":
            wait_s = self.spec.policy.next_wait_s(self.failures + 1, reason, random.random)
        if wait_s is not None:
            return self._outcome("retry", reason, result, message, wait_s)
        return self._outcome("failed", reason, result, message)

    def _outcome(
        self, outcome: str, reason: str | None = None, result: Any = None, error: str | None = None, wait_s: float = 0.0
    ) -> Outcome:
        if outcome == "cancelled":
            reason = "requested"
        return Outcome(self.run_id, self.number, outcome, reason, result, error, wait_s)

    async def _send(self, chunks: list[Chunk]) -> bool:
        while not self.is_dropped:
            try:
                return await self._link.append_log(self.run_id, self.number, chunks)
            except StoreUnavailable:
                await trio.sleep(_RETRY_S)  # the store refuses what it has already, so this is safe to repeat
        return False


def _seconds(limit: float | None) -> float:
    return math.inf if limit is None else limit


def _postpone(silence: trio.CancelScope, seconds: float) -> None:
    """Output came: the silence begins anew."""
    if not silence.cancel_called:
        silence.deadline = trio.current_time() + seconds


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first plain exception within a group that a task type's nursery raised."""
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


class _Context(TaskContext):
    """The context of a running attempt."""

    def __init__(self, attempt: RunningAttempt, worker: str, processes: Processes) -> None:
        spec = attempt.spec
        self.run_id, self.attempt, self.task, self.worker = attempt.run_id, attempt.number, spec.task, worker
        self.fire_time, self.env = format_instant(spec.fire_time_ms), spec.env
        self.grace_s, self.lease = spec.grace_s, attempt.lease
        self._attempt, self._spec, self._processes = attempt, spec, processes

    def log(self, text: str, stream: str = "out") -> None:
        if stream not in ("out", "err", "sys"):
            raise ValueError(f"there is no log stream '{stream}': use out, err or sys")
        self._attempt.sink.write(stream, text.encode() if text.endswith("\n") else f"{text}\n".encode())

    async def output(self, stream: str, data: bytes) -> None:
        await self._attempt.output(stream, data)

    async def run_process(
        self,
        argv: Sequence[str],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        user: str | None = None,
        grace: float | None = None,
    ) -> ProcessResult:
        spec = ProcessSpec(
            argv=list(argv),
            cwd=None if cwd is None else str(cwd),
            env={**self._spec.env, **(env or {}), **_identity(self, self._spec)},
            stdin=stdin,
            user=user,
            grace_s=self._spec.grace_s if grace is None else grace,
        )
        try:
            return await self._processes.execute(spec, self._attempt.output, self._attempt.lease)
        except LeaseEnded:
            self._attempt.end("unrenewed")  # whatever the task type makes of the error
            raise


def _identity(context: TaskContext, spec: RunSpec) -> dict[str, str]:
    return {
        "TASKMAN_RUN_ID": context.run_id,
        "TASKMAN_ATTEMPT": str(context.attempt),
        "TASKMAN_FENCE": str(context.attempt),
        "TASKMAN_TASK": spec.task or "",
        "TASKMAN_FIRE_TIME": context.fire_time or "",
    }
