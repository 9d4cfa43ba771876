"""The context of a running attempt: what a task type sees of the worker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import trio

from ..model.instants import format_instant
from ..model.progress import Progress
from ..store.runs import Assignment
from ..tasktypes import ProcessResult, TaskContext
from .lease import Lease
from .process import ProcessSpec
from .reports import Reports
from .scratch import Scratch

__all__ = ["AttemptContext"]

Execute = Callable[[ProcessSpec], Awaitable[ProcessResult]]
_NO_SECRETS: Mapping[str, str] = MappingProxyType({})


class AttemptContext(TaskContext):
    """See TaskContext."""

    def __init__(
        self, assignment: Assignment, lease: Lease, worker: str, execute: Execute, reports: Reports, scratch: Scratch
    ) -> None:
        spec = assignment.spec
        self.run_id, self.attempt, self.task, self.worker = assignment.run_id, assignment.attempt, spec.task, worker
        self.fire_time, self.env = format_instant(spec.fire_time_ms), spec.env
        self.grace_s, self.lease = spec.grace_s, lease
        self.idempotency_key, self.secrets = assignment.run_id, _NO_SECRETS
        self.result_so_far: Any = None
        self._spec, self._execute, self._reports, self._scratch = spec, execute, reports, scratch
        self._scratch_dir: Path | None = None

    def log(self, text: str, stream: str = "out") -> None:
        if stream not in ("out", "err", "sys"):
            raise ValueError(f"there is no log stream '{stream}': use out, err or sys")
        line = text if text.endswith("\n") else f"{text}\n"
        self._reports.sink.write(stream, line.encode(errors="backslashreplace"))

    async def output(self, stream: str, data: bytes) -> None:
        await self._reports.output(stream, data)

    async def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        self._reports.progress(Progress.checked(done, total, message))
        await trio.lowlevel.checkpoint()

    @property
    def scratch_dir(self) -> Path:
        if self._scratch_dir is None:
            self._scratch_dir = self._scratch.make(self.run_id, self.attempt)
        return self._scratch_dir

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
            env={**self._spec.env, **(env or {}), **self._identity()},
            stdin=stdin,
            user=user,
            grace_s=self._spec.grace_s if grace is None else grace,
        )
        return await self._execute(spec)

    def _identity(self) -> dict[str, str]:
        return {
            "TASKMAN_RUN_ID": self.run_id,
            "TASKMAN_ATTEMPT": str(self.attempt),
            "TASKMAN_FENCE": str(self.attempt),
            "TASKMAN_TASK": self.task or "",
            "TASKMAN_FIRE_TIME": self.fire_time or "",
        }

    @property
    def scratch_made(self) -> Path | None:
        """The scratch directory, if there is one."""
        return self._scratch_dir

    def go_on_in(self, scratch: Path | None) -> None:
        """The attempt goes on, and so does its scratch directory."""
        self._scratch_dir = scratch

    async def tidy(self) -> None:
        """The attempt is over: remove its scratch directory. Cancellation: it is removed all the same."""
        if self._scratch_dir is not None:
            path, self._scratch_dir = self._scratch_dir, None
            await self._scratch.remove(path)
