"""The part of the task types that lives as long as their worker."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from functools import partial

import trio

from ..plugins import PluginRegistry
from ..tasktypes import HeldProcess, ProcessResult, TaskType, WorkerContext
from .process import Processes, ProcessSpec

__all__ = ["serve_types"]

_log = logging.getLogger("taskman.worker")


async def serve_types(
    registry: PluginRegistry,
    worker: str,
    processes: Processes,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Let every task type serve until cancelled; one that fails is logged and left alone."""
    context = _WorkerContext(worker, processes)
    async with trio.open_nursery() as nursery:
        for task_type in list(registry.task_types.values()):
            await nursery.start(_serve, task_type, context)
        task_status.started()


async def _serve(task_type: TaskType, context: WorkerContext, *, task_status: trio.TaskStatus[None]) -> None:
    has_started = False
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(task_type.serve, context))
            task_status.started()
            has_started = True
    except Exception as error:  # whatever a stranger's plugin does
        _log.error("the task type '%s' has stopped serving: its runs may fail", task_type.name, exc_info=error)
    if not has_started:
        task_status.started()


class _WorkerContext(WorkerContext):
    """See WorkerContext."""

    def __init__(self, worker: str, processes: Processes) -> None:
        self.worker, self._processes = worker, processes

    async def hold_process(
        self,
        argv: Sequence[str],
        stdio: Sequence[int],
        *,
        env: Mapping[str, str] | None = None,
        grace_s: float = 2.0,
        task_status: trio.TaskStatus[HeldProcess] = trio.TASK_STATUS_IGNORED,
    ) -> ProcessResult:
        marked = {**(env or {}), "TASKMAN_TREE": uuid.uuid4().hex}
        spec = ProcessSpec(argv=list(argv), cwd=None, env=marked, stdin=None, user=None, grace_s=grace_s)
        return await self._processes.hold(spec, stdio, task_status=task_status)
