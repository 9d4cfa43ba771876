"""One attempt: from its assignment to its outcome, with its log, its timeout and the reasons to end it early."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from ..errors import Fatal, InvalidInput, LeaseEnded, RetryAfter, ShimLost, StoreError, StoreUnavailable
from ..model.progress import Progress
from ..model.results import is_reason, told, why_not_kept
from ..plugins import PluginRegistry
from ..store.logs import Chunk
from ..store.runs import Assignment, Outcome
from ..tasktypes import ProcessResult, TaskFailed
from .context import AttemptContext
from .journal import Entry
from .lease import Lease, now
from .link import Delivery, Link
from .process import Processes, ProcessSpec
from .reports import Reports
from .scratch import Scratch
from .survivors import Survivor

__all__ = ["RunningAttempt", "Tools"]

_RETRY_S = 0.5
_RESTARTED = b"the worker was restarted here; a moment of output may be missing\n"


@dataclass(frozen=True, slots=True)
class Tools:
    """What the attempts of a worker share."""

    processes: Processes
    scratch: Scratch


class RunningAttempt:
    """An attempt that this worker holds. `end` stops it early; `run` tells how it went."""

    def __init__(
        self, assignment: Assignment, lease: Lease, link: Delivery, registry: PluginRegistry,
        tools: Tools, nursery: trio.Nursery,
    ) -> None:  # fmt: skip
        """`nursery` is the worker's: there the log and the progress are delivered while the task works."""
        self.run_id, self.number, self.spec = assignment.run_id, assignment.attempt, assignment.spec
        self.lease = lease
        self._link, self._registry = link, registry
        self.reports = Reports(self._send, self._tell, nursery)
        self._scope = trio.CancelScope()
        self._processes = tools.processes
        self._context = AttemptContext(
            assignment, lease, link.worker, self._execute_process, self.reports, tools.scratch
        )
        self.ended_by: str | None = None
        self._assignment, self._began = assignment, now()
        self._survivor: Survivor | None = None
        self._describe: Callable[[], Entry] | None = None

    def go_on_with(self, survivor: Survivor, link: Link) -> None:
        """It runs already: its process has outlived the worker that started it. To be called before `run`."""
        self._survivor, self._began = survivor, survivor.entry.began
        self._context.go_on_in(survivor.entry.scratch)
        self.reports.go_on(partial(self._log_position, link))

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
        """Execute the task type, deliver log and progress, and say how it ended. Never raises but for cancellation.

        Cancellation: the task is cancelled, its processes are ended, and the rest of the log is dropped.
        """
        try:
            outcome = await self._execute()
        finally:
            if self._survivor is not None:  # the task type did not come to ask for it
                await self._survivor.end()
            self.reports.close()
            await self._context.tidy()
        await self.reports.deliver()
        return outcome

    async def _execute(self) -> Outcome:
        try:
            with self._scope:
                return self._succeeded(await self._call_in_time())
        except BaseExceptionGroup as group:
            return self._judge(_first(group))
        except (Exception, SystemExit) as error:  # whatever a task type raises is its failure, not ours
            return self._judge(error)
        return self._stopped()

    async def _call_in_time(self) -> Any:
        spec = self.spec
        if spec.timeout_s is None and spec.idle_timeout_s is None:
            return await self._call()
        with trio.move_on_after(self._left_s()), trio.move_on_after(_seconds(spec.idle_timeout_s)) as silence:
            self.reports.watch(partial(_postpone, silence, _seconds(spec.idle_timeout_s)))
            return await self._call()
        if silence.cancelled_caught:
            raise TaskFailed("idle_timeout", f"gave no sign of life for {spec.idle_timeout_s:g} s")
        raise TaskFailed("timeout", f"took longer than its timeout of {spec.timeout_s:g} s")

    async def _call(self) -> Any:
        task_type = self._registry.task_type(self.spec.type)
        if self._survivor is not None:
            self.reports.sink.write("sys", _RESTARTED)
        self._describe = self._entry if task_type.resumable else None
        return await task_type.run(self._context, self._registry.read_params(self.spec.type, self.spec.params))

    async def _execute_process(self, spec: ProcessSpec) -> ProcessResult:
        survivor, self._survivor = self._survivor, None
        describe, self._describe = self._describe, None  # a successor goes on with the first process only
        try:
            if survivor is not None:
                return await self._processes.go_on(survivor, spec, self.reports.output, self.lease)
            return await self._processes.execute(spec, self.reports.output, self.lease, describe)
        except LeaseEnded:
            self.end("unrenewed")  # whatever the task type makes of the error
            raise

    def _entry(self) -> Entry:
        return Entry(self._assignment, self._began, self._context.scratch_made)

    def _left_s(self) -> float:
        """Of its timeout, which a run that goes on has used up in part."""
        used_s = 0.0 if self._survivor is None else now() - self._began
        return max(0.0, _seconds(self.spec.timeout_s) - used_s)

    def _stopped(self) -> Outcome:
        """How it ended that was told to."""
        if self.ended_by == "cancelled":
            return self._outcome("cancelled", "requested", self._kept())
        return self._outcome("released" if self.ended_by == "released" else "lost")

    def _judge(self, error: BaseException) -> Outcome:
        if not isinstance(error, (Exception, SystemExit)):
            raise error
        if self.ended_by is not None:
            return self._stopped()
        if isinstance(error, (LeaseEnded, ShimLost)):  # killed: by the shim, or by somebody, or for want of memory
            return self._outcome("lost")
        if isinstance(error, TaskFailed):
            reason = error.reason if is_reason(error.reason) else "error"
            return self._failed(reason, told(error), error.result)
        if isinstance(error, InvalidInput):
            return self._outcome("fatal", "rejected", self._kept(), told(error))
        if isinstance(error, Fatal):
            return self._outcome("fatal", "error", self._kept(), told(error))
        if isinstance(error, RetryAfter):
            return self._failed("error", told(error), error.result, error.seconds)
        return self._failed("error", f"{type(error).__name__}: {told(error)}")

    def _succeeded(self, result: Any) -> Outcome:
        if result is not None and (fault := why_not_kept(result)):
            return self._failed("error", f"the result {fault}")
        return self._outcome("succeeded", result=result)

    def _failed(self, reason: str, message: str, result: Any = None, retry_after_s: float | None = None) -> Outcome:
        """Failed; whether another attempt follows is decided where the run's policy is known."""
        return self._outcome("failed", reason, self._kept(result), message, retry_after_s)

    def _kept(self, result: Any = None) -> Any:
        """A result, or else the result so far; one that cannot be kept is named in the log, and left out."""
        result = self._context.result_so_far if result is None else result
        if fault := why_not_kept(result):
            self._context.log(f"left out: the result {fault}", "sys")
            return None
        return result

    def _outcome(
        self, outcome: str, reason: str | None = None, result: Any = None, error: str | None = None,
        retry_after_s: float | None = None,
    ) -> Outcome:  # fmt: skip
        return Outcome(self.run_id, self.number, outcome, reason, result, error, retry_after_s=retry_after_s)

    async def _tell(self, progress: Progress) -> bool:
        if self.is_dropped:
            return True
        try:
            await self._link.progress(self.run_id, self.number, progress.done, progress.total, progress.message)
        except StoreError:
            return False
        return True

    async def _log_position(self, link: Link) -> tuple[int, int]:
        while not self.is_dropped:
            try:
                return await link.log_position(self.run_id, self.number)
            except StoreError:
                await trio.sleep(_RETRY_S)
        return 0, 1

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
