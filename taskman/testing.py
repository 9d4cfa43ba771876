"""For plugin authors: run a task type in a test, without a server and without Redis.

Everything else is real: params are checked as the API checks them, processes are started and ended, output becomes
lines, limits and cancellation work as on a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypedDict, Unpack

import trio
from pydantic import BaseModel

from .errors import RetryAfter
from .model.ids import new_run_id
from .model.loglines import split_lines
from .model.progress import Progress
from .model.run import DEFAULT_GRACE_S, RunSpec
from .plugins import PluginRegistry
from .runtime.attempt import RunningAttempt, Tools
from .runtime.lease import Lease, now
from .runtime.process import Processes
from .runtime.scratch import Scratch
from .runtime.services import serve_types
from .store import runs as store_runs
from .store.logs import Chunk
from .tasktypes import TaskContext, TaskType, WorkerContext
from .vetting import vetted_task_types

__all__ = ["Line", "Options", "Outcome", "run_task_type", "run_task_type_async"]

# How long a test may hold its lease; a shim's timer takes no more than 24 days.
_ENDLESS_S = 7.0 * 86_400


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log, without its end; `stream` is out, err or sys."""

    text: str
    stream: str


@dataclass(slots=True)
class Outcome:
    """How a run went; while it is under way, how it has gone so far, with `state` running.

    `state` is succeeded, failed or cancelled at the end, or lost when what holds its processes was killed; `reason`
    such as error, exit, timeout. `progress` has every call of `context.progress`. `exception` is what the task type
    raised, and `retry_after` the seconds of a RetryAfter.
    """

    state: str = "running"
    reason: str | None = None
    result: Any = None
    error: str | None = None
    lines: list[Line] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    exception: BaseException | None = None
    retry_after: float | None = None

    @property
    def log(self) -> str:
        """The text of all lines."""
        return "".join(f"{line.text}\n" for line in self.lines)


class Options(TypedDict, total=False):
    """How to run it; times in seconds.

    `cancel_when` is asked at each line and each report of progress, with the outcome so far: once it answers true, the
    run is cancelled. `task`, `attempt` and `fire_time_ms` (epoch) are for the context.
    """

    timeout: float | None
    idle_timeout: float | None
    grace: float
    env: Mapping[str, str]
    task: str | None
    attempt: int
    fire_time_ms: int | None
    cancel_when: Callable[[Outcome], bool]


def run_task_type(
    task_type: TaskType,
    params: Mapping[str, Any] | BaseModel | None = None,
    **options: Unpack[Options],
) -> Outcome:
    """Run a task type with these params and say how it went. For plain tests: it runs Trio itself.

    Raises: InvalidInput for params that the API would refuse; PluginError for a task type that no server would take.
    """
    return trio.run(partial(run_task_type_async, task_type, params, **options))


async def run_task_type_async(
    task_type: TaskType,
    params: Mapping[str, Any] | BaseModel | None = None,
    **options: Unpack[Options],
) -> Outcome:
    """The same within Trio, for pytest-trio.

    Cancellation: the task is cancelled as on a worker, its processes are ended, and Cancelled is raised.
    """
    vetted_task_types([task_type])
    outcome = Outcome()
    registry = PluginRegistry()
    registry.task_types[task_type.name] = _Observed(task_type, outcome)
    plain = _plain(params)
    registry.read_params(task_type.name, plain)
    spec = _spec(task_type.name, dict(plain), options)
    processes = Processes()
    async with trio.open_nursery() as nursery:
        await nursery.start(processes.run)
        await nursery.start(serve_types, registry, _Bench.worker, processes)
        assignment = store_runs.Assignment(new_run_id(), options.get("attempt", 1), spec)
        link = _Bench(outcome)
        lease = Lease(now(), _ENDLESS_S)
        attempt = RunningAttempt(assignment, lease, link, registry, Tools(processes, Scratch()), nursery)
        attempt.reports.on_progress = link.take_progress
        link.check = partial(_check, attempt, options.get("cancel_when"), outcome)
        _conclude(outcome, await attempt.run())
        nursery.cancel_scope.cancel()
    return outcome


def _plain(params: Mapping[str, Any] | BaseModel | None) -> Any:
    if isinstance(params, BaseModel):
        return params.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return {} if params is None else params


def _spec(name: str, params: dict[str, Any], options: Options) -> RunSpec:
    return RunSpec(
        type=name,
        params=params,
        task=options.get("task"),
        timeout_s=options.get("timeout"),
        idle_timeout_s=options.get("idle_timeout"),
        grace_s=options.get("grace", DEFAULT_GRACE_S),
        env=dict(options.get("env", {})),
        fire_time_ms=options.get("fire_time_ms"),
    )


def _check(attempt: RunningAttempt, cancel_when: Callable[[Outcome], bool] | None, outcome: Outcome) -> None:
    if cancel_when is not None and attempt.ended_by is None and cancel_when(outcome):
        attempt.end("cancelled")


def _conclude(outcome: Outcome, ended: store_runs.Outcome) -> None:
    outcome.state = "failed" if ended.outcome == "fatal" else ended.outcome
    outcome.reason = ended.reason
    outcome.result, outcome.error = ended.result, ended.error
    if isinstance(outcome.exception, RetryAfter):
        outcome.retry_after = outcome.exception.seconds


class _Observed(TaskType):
    """A task type that keeps what it raised."""

    def __init__(self, inner: TaskType, outcome: Outcome) -> None:
        self._inner, self._outcome = inner, outcome
        self.Params = inner.Params  # type: ignore[misc]  # each of these stands for another type

    async def serve(
        self, worker: WorkerContext, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await self._inner.serve(worker, task_status=task_status)

    async def run(self, context: TaskContext, params: Any) -> Any:
        try:
            return await self._inner.run(context, params)
        except BaseException as error:
            if not isinstance(error, trio.Cancelled):
                self._outcome.exception = error
            raise


class _Bench:
    """The end of a delivery without a server: what a worker would send becomes the outcome."""

    worker = "test"

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self.check: Callable[[], None] = lambda: None

    def take_progress(self, progress: Progress) -> None:
        self._outcome.progress.append(progress)
        self.check()

    async def append_log(self, run_id: str, attempt: int, chunks: Sequence[Chunk]) -> bool:
        for chunk in chunks:
            lines = split_lines(chunk.first_line, chunk.at_ms, chunk.stream, chunk.data)
            self._outcome.lines += [Line(line.text, line.stream) for line in lines]
        self.check()
        return True

    async def progress(self, run_id: str, attempt: int, done: float, total: float | None, message: str | None) -> None:
        """Every report has been taken already."""
