"""What a plugin implements (TaskType), and what it is given: of a run (TaskContext), of a worker (WorkerContext)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import trio
from pydantic import BaseModel

__all__ = ["HeldProcess", "ProcessResult", "TaskContext", "TaskFailed", "TaskType", "WorkerContext"]


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """How a process ended. `exit_code` is None when a signal ended it; `cpu_s` and the memory are the tree's."""

    exit_code: int | None
    signal: str | None
    max_rss_bytes: int
    cpu_s: float


class TaskFailed(Exception):
    """Ends an attempt as failed, with a reason code of its own and a result worth keeping."""

    def __init__(self, reason: str, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.reason, self.result = reason, result


class TaskContext(ABC):
    """One attempt, seen from inside: its identity, its log, its processes."""

    run_id: str
    attempt: int
    task: str | None
    fire_time: str | None
    worker: str
    env: Mapping[str, str]
    grace_s: float

    @abstractmethod
    def log(self, text: str, stream: str = "out") -> None:
        """Append `text` to the run's log as one or more lines; `stream` is out, err or sys. Never blocks."""

    @abstractmethod
    async def output(self, stream: str, data: bytes) -> None:
        """Append bytes to the run's log just as they are, and wait while too much of it waits to be stored.

        Cancellation: the data has been taken.
        """

    @abstractmethod
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
        """Run a process, its output going live to the run's log, and wait until its whole tree is gone.

        Cancellation: the tree gets SIGTERM, after `grace` seconds (the run's by default) SIGKILL; Cancelled is
        raised only when no process of it is left.
        Raises: OSError when the program cannot be started.
        """


class HeldProcess(Protocol):
    """A process tree of a worker, for whoever started it with `WorkerContext.hold_process`."""

    def working_for(self, context: TaskContext) -> AbstractContextManager[None]:
        """Bind the tree to a run for as long as the block lasts.

        When the run is cancelled without a grace, or may become another worker's, the tree is ended, also while the
        whole worker stands still.
        """

    async def stop(self, grace_s: float | None = None) -> None:
        """Send SIGTERM to the tree, and SIGKILL to what is left of it after the grace. Does not wait for that."""

    async def kill(self) -> None:
        """Send SIGKILL to the tree. Does not wait until it is gone."""


class WorkerContext(ABC):
    """A worker, seen from a task type that serves for as long as it works."""

    worker: str

    @abstractmethod
    async def hold_process(
        self,
        argv: Sequence[str],
        stdio: Sequence[int],
        *,
        env: Mapping[str, str] | None = None,
        grace_s: float = 2.0,
        task_status: trio.TaskStatus[HeldProcess] = trio.TASK_STATUS_IGNORED,
    ) -> ProcessResult:
        """Run a process that belongs to no run, and wait until its whole tree is gone.

        For `nursery.start`: the started value controls the tree. `stdio` are three fds that become its standard
        input, output and error; they can be closed once it has started. It ends with the worker, however that ends.
        Cancellation: the tree gets SIGTERM, after `grace_s` seconds SIGKILL; Cancelled is raised only when no
        process of it is left.
        Raises: OSError when the program cannot be started.
        """


class TaskType(ABC):
    """A kind of task. Subclasses set `name` and `Params` and implement `run`."""

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    description: ClassVar[str] = ""
    Params: ClassVar[type[BaseModel]]

    @abstractmethod
    async def run(self, context: TaskContext, params: Any) -> Any:
        """Do the work; what it returns (JSON) is the run's result.

        Raise TaskFailed, Fatal or anything else to fail. Cancellation arrives as trio.Cancelled: clean up within
        the run's grace, shielded, and let it through.
        """

    async def serve(
        self, worker: WorkerContext, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep what outlives a run, such as warm processes or connections; most types need nothing of the kind.

        A worker calls this before its first run and goes on at `task_status.started()`; what it raises is logged,
        and the worker works on. One task type may serve several workers of one process.
        Cancellation: after the worker's last run. Clean up within seconds.
        """
        task_status.started()
