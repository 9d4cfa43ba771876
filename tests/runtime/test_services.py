"""What a task type keeps for as long as a worker works."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from pydantic import BaseModel

from taskman import HeldProcess, ProcessResult, TaskContext, TaskmanError, TaskType, WorkerContext
from taskman.errors import LeaseEnded
from taskman.model.admission import Node
from taskman.plugins import PluginRegistry
from taskman.runtime import process
from taskman.runtime.lease import LEASE_S, MARGIN_S, Lease, now
from taskman.runtime.link_local import LocalLink
from taskman.runtime.process import Processes
from taskman.runtime.services import serve_types
from taskman.runtime.worker import Worker
from taskman.store.store import Store


class Serving(TaskType):
    """A task type that tells how it serves."""

    name = "serving"
    Params = BaseModel

    def __init__(self, how: str = "") -> None:
        self.how = how
        self.told: list[str] = []

    async def run(self, context: TaskContext, params: BaseModel) -> None:
        self.told.append("run")

    async def serve(
        self, worker: WorkerContext, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        self.told.append(f"serves {worker.worker}")
        if self.how == "fails at once":
            raise ValueError("broken")
        task_status.started()
        if self.how == "fails later":
            raise ValueError("broken")
        try:
            await trio.sleep_forever()
        finally:
            self.told.append("ended")


class Plain(Serving):
    """A task type that does not serve."""

    name = "plain"
    serve = TaskType.serve


def registry_of(*types: TaskType) -> PluginRegistry:
    registry = PluginRegistry()
    registry.task_types.update({one.name: one for one in types})
    return registry


async def test_types_serve_until_the_worker_has_drained(store: Store, nursery: trio.Nursery) -> None:
    serving = Serving()
    link = LocalLink(store, Node(id="w1", types=frozenset(), labels={}, slots=1, running=0))
    worker = Worker(link, registry_of(serving, Plain()), slots=1)
    await nursery.start(link.run)
    async with trio.open_nursery() as working:
        await working.start(worker.run)
        assert serving.told == ["serves w1"]
        await worker.drain(1)
    assert serving.told == ["serves w1", "ended"]


@pytest.mark.parametrize("how", ["fails at once", "fails later"])
async def test_a_type_that_fails_to_serve_is_logged_and_stops_nobody(
    how: str, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    broken, well = Serving(how), Serving()
    well.name = "well"  # type: ignore[misc]  # a second one of the same class
    await nursery.start(serve_types, registry_of(broken, well), "w1", Processes())
    assert well.told == ["serves w1"]
    await trio.testing.wait_all_tasks_blocked()
    assert "the task type 'serving' has stopped serving" in caplog.text
    nursery.cancel_scope.cancel()


RUN: Any = SimpleNamespace(run_id="r0-1")  # of a context, all that holding a process needs


class Holder(TaskType):
    """Holds a process tree whose shell has gone, while a process of it has left the session."""

    name = "holder"
    Params = BaseModel

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: HeldProcess | None = None
        self.result: ProcessResult | None = None
        self.failure: TaskmanError | None = None
        self.over = trio.Event()

    async def run(self, context: TaskContext, params: BaseModel) -> None: ...

    async def serve(
        self, worker: WorkerContext, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        code = (
            "import os, sys, time, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "for name in 'ab':\n"
            "    if name == 'b' and os.fork() == 0: os.setsid(); time.sleep(60)\n"
            "print(os.getpid(), os.environ.get('COLOUR'), 'TASKMAN_TOKEN' in os.environ, flush=True)\n"
            "time.sleep(60)\n"
        )
        async with trio.open_nursery() as nursery:
            with (self.folder / "out").open("wb") as out:
                stdio = [out.fileno()] * 3
                argv = [sys.executable, "-S", "-c", code]
                held = partial(worker.hold_process, argv, stdio, env={"COLOUR": "blue"}, grace_s=0.2)
                self.process = await nursery.start(self._hold, held)
            task_status.started()

    async def _hold(self, held: object, *, task_status: trio.TaskStatus[HeldProcess]) -> None:
        try:
            self.result = await held(task_status=task_status)  # type: ignore[operator]  # a partial
        except TaskmanError as error:
            self.failure = error
        self.over.set()

    def line(self) -> list[str]:
        return (self.folder / "out").read_text().split()


async def start_holder(nursery: trio.Nursery, folder: Path) -> tuple[Holder, Processes]:
    holder, processes = Holder(folder), Processes()
    await nursery.start(processes.run)
    await nursery.start(serve_types, registry_of(holder), "w1", processes)
    with trio.fail_after(20):
        while "\n" not in (folder / "out").read_text():
            await trio.sleep(0.01)
    return holder, processes


async def test_a_held_process_writes_where_it_is_told_and_gets_no_settings_of_ours(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKMAN_TOKEN", "secret")
    holder, _ = await start_holder(nursery, tmp_path)
    assert holder.line()[1:] == ["blue", "False"]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("how", ["stop", "kill", "its run", "its shim", "cancel"])
async def test_a_held_process_ends_with_all_that_it_started(tmp_path: Path, how: str) -> None:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            holder, processes = await start_holder(nursery, tmp_path)
            group = marked_like(int(holder.line()[0]))
            assert len(group) == 2
            assert holder.process is not None
            if how == "stop":
                await holder.process.stop(0.1)
            elif how == "kill":
                await holder.process.kill()
            elif how == "its run":
                with holder.process.working_for(RUN):
                    await processes.kill("r0-1")
            elif how == "its shim":
                os.kill(parent_of(group[0]), signal.SIGKILL)
            if how not in ("cancel", "its shim"):
                await holder.over.wait()
                assert holder.result is not None
                assert holder.result.signal == "SIGKILL"
                assert not any(is_alive(pid) for pid in group)
            if how == "its shim":
                while any(is_alive(pid) for pid in group):
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert not any(is_alive(pid) for pid in group)


async def test_a_held_process_ends_with_the_lease_of_its_run(nursery: trio.Nursery, tmp_path: Path) -> None:
    holder, _ = await start_holder(nursery, tmp_path)
    group = marked_like(int(holder.line()[0]))
    assert holder.process is not None
    run: Any = SimpleNamespace(run_id="r0-1", lease=Lease(now() - LEASE_S + MARGIN_S + 0.2, 0.0))
    with holder.process.working_for(run), trio.fail_after(20):
        await holder.over.wait()
    assert isinstance(holder.failure, LeaseEnded)
    assert not any(is_alive(pid) for pid in group)


async def test_a_held_process_outlives_the_lease_of_a_run_that_is_over(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "FORGET_S", 0.01)
    holder, _ = await start_holder(nursery, tmp_path)
    assert holder.process is not None
    run: Any = SimpleNamespace(run_id="r0-1", lease=Lease(now() - LEASE_S + MARGIN_S + 0.3, 0.0))
    with holder.process.working_for(run):
        pass
    with trio.move_on_after(1):
        await holder.over.wait()
    assert not holder.over.is_set()
    await holder.process.kill()
    await holder.over.wait()


def marked_like(pid: int) -> list[int]:
    """The processes that carry the same mark in their environment as this one, itself first."""
    marks = [one for one in environ(pid) if one.startswith(b"TASKMAN_TREE=")]
    others = [int(path.name) for path in Path("/proc").glob("[0-9]*") if int(path.name) != pid]
    return [pid, *(other for other in others if marks[0] in environ(other))]


def environ(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
