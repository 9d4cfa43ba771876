"""The `python` task type: `async def` functions run in the worker, `def` functions in warm processes beside it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import trio
from pydantic import BaseModel, ConfigDict, Field

from taskman import Fatal, RetryAfter, TaskContext, TaskFailed, TaskType, WorkerContext, hookimpl, use_context

from .finding import find
from .frames import Message
from .pool import Pool
from .routing import Capture, routed
from .verdicts import judge, why_arguments_do_not_fit

NAME = r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*$"
REMEMBERED = 1000


class PythonParams(BaseModel):
    """What to call, and with what."""

    model_config = ConfigDict(extra="forbid")

    callable: str = Field(
        pattern=NAME, max_length=500, title="Function", description="module:function, such as myapp.tasks:send"
    )
    args: list[Any] = Field(default_factory=list, title="Arguments", description="by position, such as [1, 2]")
    kwargs: dict[str, Any] = Field(
        default_factory=dict, title="Named arguments", description='by name, such as {"to": "Ada"}'
    )


class Python(TaskType):
    """Calls functions that the worker can import and that its allow list lets through."""

    name = "python"
    version = "1.0"
    description = "Calls a Python function."
    Params = PythonParams

    def __init__(self) -> None:
        self._pools: dict[str, Pool] = {}
        self._async: dict[str, Callable[..., Any]] = {}

    async def serve(
        self, worker: WorkerContext, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Own the warm processes. Functions are looked for in the working directory first, as with `python -m`."""
        if not sys.flags.safe_path and not {"", os.getcwd()} & set(sys.path):
            sys.path.insert(0, os.getcwd())
        pool = Pool(worker, {"path": sys.path, "patterns": _patterns()})
        with routed():
            self._pools[worker.worker] = pool
            try:
                await pool.run(task_status=task_status)
            finally:
                del self._pools[worker.worker]

    async def run(self, context: TaskContext, params: PythonParams) -> Any:
        """The function's return value."""
        function = self._async.get(params.callable)
        if function is None:
            verdict = await self._call_in_child(context, params)
            if verdict["kind"] != "async":
                return _obey(verdict)
            function = await self._import(context, params.callable)
        return await _call_here(function, context, params)

    async def _call_in_child(self, context: TaskContext, params: PythonParams) -> Message:
        pool = self._pools.get(context.worker)
        if pool is None:
            raise TaskFailed("error", "this worker has no processes for functions: its log says why")
        return await pool.call(context, _request(context, params))

    async def _import(self, context: TaskContext, name: str) -> Callable[..., Any]:
        """Import it into the worker, in a thread, as it may take long; a child has found it to be `async def`."""
        with Capture(context) as capture:
            try:
                function = await trio.to_thread.run_sync(find, name, _patterns())
            except Exception as error:
                _obey(judge(error, lambda text: capture.write("err", text)))
                raise
        if len(self._async) >= REMEMBERED:
            self._async.clear()
        self._async[name] = function
        return function


async def _call_here(function: Callable[..., Any], context: TaskContext, params: PythonParams) -> Any:
    with use_context(context), Capture(context) as capture:
        try:
            return await function(*params.args, **params.kwargs)
        except BaseExceptionGroup as group:
            if group.subgroup((trio.Cancelled, KeyboardInterrupt)):
                raise
            failure: BaseException = group
        except TypeError as error:
            failure = why_arguments_do_not_fit(function, error, params.model_dump()) or error
        except (Exception, SystemExit) as error:
            failure = error
        return _obey(judge(failure, lambda text: capture.write("err", text)))


def _patterns() -> list[str]:
    return [part.strip() for part in os.environ.get("TASKMAN_ALLOW_CALLABLES", "").split(",") if part.strip()]


def _request(context: TaskContext, params: PythonParams) -> Message:
    run = {
        "run_id": context.run_id,
        "attempt": context.attempt,
        "task": context.task,
        "fire_time": context.fire_time,
        "worker": context.worker,
        "env": dict(context.env),
        "grace_s": context.grace_s,
    }
    identity = {
        "TASKMAN_RUN_ID": context.run_id,
        "TASKMAN_ATTEMPT": str(context.attempt),
        "TASKMAN_FENCE": str(context.attempt),
        "TASKMAN_TASK": context.task or "",
        "TASKMAN_FIRE_TIME": context.fire_time or "",
    }
    env = {**context.env, **identity}
    return {"callable": params.callable, "args": params.args, "kwargs": params.kwargs, "run": run, "env": env}


def _obey(verdict: Message) -> Any:
    """The result, or the exception that the verdict stands for."""
    kind, message = verdict["kind"], verdict.get("message") or ""
    if kind == "result":
        return verdict["value"]
    if kind == "refused":
        raise TaskFailed("rejected", message)
    if kind == "fatal":
        raise Fatal(message)
    if kind == "retry":
        raise RetryAfter(verdict["seconds"], message, verdict["result"])
    if kind == "failed":
        raise TaskFailed(verdict["reason"], message, verdict["result"])
    raise TaskFailed("error", message)


@hookimpl
def taskman_task_types() -> list[TaskType]:
    """The one type of this plugin."""
    return [Python()]
