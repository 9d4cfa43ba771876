"""A worker on a real store with the python task type, and a module of functions for it to call."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from taskman.model.admission import Node
from taskman.model.ids import new_run_id
from taskman.model.run import Run, RunSpec
from taskman.plugins import PluginRegistry, discover
from taskman.runtime.link_local import LocalLink
from taskman.runtime.worker import Worker
from taskman.store.runs import Submission
from taskman.store.store import Store

FUNCTIONS = (Path(__file__).parent / "functions.txt").read_text()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a fresh module of functions that can be imported."""
    name = f"functions_{uuid.uuid4().hex[:8]}"
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / f"{name}.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(directory)
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def registry(module: str) -> PluginRegistry:
    return discover()


@pytest.fixture
async def worker(store: Store, registry: PluginRegistry, nursery: trio.Nursery) -> Worker:
    node = Node(id="w1", types=frozenset(registry.task_types), labels={}, slots=8, running=0)
    link = LocalLink(store, node)
    worker = Worker(link, registry, slots=8)
    await nursery.start(link.run)
    await nursery.start(worker.run)
    return worker


@dataclass
class Caller:
    """Asks for runs of the module's functions, and looks at what came of them."""

    store: Store
    module: str

    async def submit(self, name: str, *args: Any, kwargs: dict[str, Any] | None = None, **options: Any) -> str:
        full = name if ":" in name else f"{self.module}:{name}"
        params = {"callable": full, "args": list(args), "kwargs": kwargs or {}}
        spec = RunSpec(type="python", params=params, **options)
        return (await self.store.runs.submit([Submission(new_run_id(), spec)], by="test"))[0].run_id

    async def until(self, run_id: str, wanted: Callable[[Run], bool] = lambda run: run.is_final) -> Run:
        with trio.fail_after(30):
            while not wanted(run := await self.store.runs.get(run_id)):
                await trio.sleep(0.01)
        return run

    async def call(self, name: str, *args: Any, kwargs: dict[str, Any] | None = None, **options: Any) -> Run:
        return await self.until(await self.submit(name, *args, kwargs=kwargs, **options))

    async def log(self, run_id: str) -> dict[str, str]:
        """What is in the log so far, by stream."""
        found, seq = {"out": b"", "err": b"", "sys": b""}, 0
        while chunks := await self.store.logs.read(run_id, 1, seq):
            seq = chunks[-1].seq
            for chunk in chunks:
                found[chunk.stream] += chunk.data
        return {stream: data.decode() for stream, data in found.items()}

    async def until_logged(self, run_id: str, text: str) -> None:
        with trio.fail_after(30):
            while text not in (await self.log(run_id))["out"]:
                await trio.sleep(0.01)


@pytest.fixture
async def caller(store: Store, worker: Worker, module: str) -> Caller:
    return Caller(store, module)


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def alive() -> Callable[[int], bool]:
    return is_alive


@pytest.fixture
def own_pid() -> int:
    return os.getpid()
