"""What a plugin implements (TaskType) and what a running task receives (TaskContext)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

__all__ = ["ProcessResult", "TaskContext", "TaskFailed", "TaskType"]


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

    @abstractmethod
    def log(self, text: str, stream: str = "out") -> None:
        """Append `text` to the run's log as one or more lines; `stream` is out, err or sys. Never blocks."""

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
