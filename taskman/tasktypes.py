"""What a plugin implements (TaskType), and what it is given: of a run (TaskContext), of a worker (WorkerContext)."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

import trio
from pydantic import BaseModel

from .model.description import TypeDescription
from .model.results import is_reason

__all__ = [
    "HeldProcess",
    "ProcessResult",
    "TaskContext",
    "TaskFailed",
    "TaskType",
    "WorkerContext",
    "describe",
    "params_schema",
]


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """How a process ended. `exit_code` is None when a signal ended it; `cpu_s` and the memory are the tree's."""

    exit_code: int | None
    signal: str | None
    max_rss_bytes: int
    cpu_s: float


class TaskFailed(Exception):
    """Ends an attempt as failed, with a reason code of its own and a result worth keeping.

    The reasons `error`, `exit` and `timeout` are tried again where the run's policy has it so; others never are.
    Raises (constructor): ValueError for a reason that is no word of small letters, digits and underscores.
    """

    reason: str = "error"
    result: Any = None

    def __init__(self, reason: str, message: str, result: Any = None) -> None:
        if not is_reason(reason):
            raise ValueError(f"the reason {reason!r} is no word: use small letters, digits and _, at most 40")
        super().__init__(message)
        self.reason, self.result = reason, result


class TaskContext(ABC):
    """One attempt, seen from inside: its identity, its log, its processes.

    `task` is the saved task's name, None for an ad-hoc run; `fire_time` the due instant that a scheduled run stands
    for, RFC 3339. `env` are the run's variables, which its processes get. `idempotency_key` is the same in every
    attempt of the run: give it to services that must not do a thing twice. `result_so_far`, which the task type may
    set to any JSON, is the result of an attempt that fails, times out or is cancelled.
    """

    run_id: str
    attempt: int
    task: str | None
    fire_time: str | None
    worker: str
    env: Mapping[str, str]
    grace_s: float
    secrets: Mapping[str, str]
    idempotency_key: str
    result_so_far: Any

    @abstractmethod
    def log(self, text: str, stream: str = "out") -> None:
        """Append `text` to the run's log as one or more lines; `stream` is out, err or sys. Never blocks."""

    @abstractmethod
    async def output(self, stream: str, data: bytes) -> None:
        """Append bytes to the run's log just as they are, and wait while too much of it waits to be stored.

        Cancellation: the data has been taken.
        """

    @abstractmethod
    async def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Tell how far the task has come, in any unit; call it as often as you like, the newest wins.

        Pages show a bar where there is a total, else the number. It counts as a sign of life, as output does.
        Cancellation: a checkpoint, so that a loop which reports can be stopped; the report has been taken.
        Raises: ValueError, TypeError for what is no number from 0 up, or no text.
        """

    @property
    @abstractmethod
    def scratch_dir(self) -> Path:
        """A directory for this attempt alone, made at the first use and removed with all its content at the end.

        Only the worker's user may enter it. Raises: OSError when it cannot be made.
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
    """A kind of task. Subclasses set `name` and `Params` and implement `run`.

    `resumable` says that `run` does nothing worth repeating before and after one `run_process`. Then a run goes on
    when its worker was killed and is there again within 8 s: the new worker calls `run`, whose first `run_process`
    starts nothing, but goes on with the process that is running, or has ended in the meantime.
    """

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    description: ClassVar[str] = ""
    resumable: ClassVar[bool] = False
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


@lru_cache(maxsize=500)
@cache
def describe(task_type: TaskType) -> TypeDescription:
    """What others are told of an installed type."""
    schema = params_schema(task_type.Params)
    return TypeDescription(task_type.name, task_type.version, task_type.description, schema)


def params_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a params model. Raises what pydantic raises where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a default that is no JSON is left out of the schema, which does no harm
        return model.model_json_schema()
