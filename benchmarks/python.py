"""What a call of a Python function costs: `python benchmarks/python.py`.

First the children alone, without server or Redis; then runs through a real server's store and worker.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio
from engine import Bench, finished, server, specs

from taskman.model.states import State
from taskman.plugins import PluginRegistry
from taskman.runtime.process import Processes
from taskman.runtime.services import serve_types
from taskman.tasktypes import ProcessResult, TaskContext
from taskman_python.plugin import Python, PythonParams

MODULE = """
from taskman import task

@task
def noop(x=""):
    pass

@task
def prints(x=""):
    print("a line")

@task
async def anoop(x=""):
    pass
"""


class Context(TaskContext):
    """A run without a log."""

    run_id, attempt, task, fire_time, worker = "r0", 1, None, None, "bench"
    env: Mapping[str, str] = {}
    grace_s = 2.0

    def log(self, text: str, stream: str = "out") -> None:
        """Nowhere."""

    async def output(self, stream: str, data: bytes) -> None:
        """Nowhere."""

    async def run_process(self, *arguments: Any, **options: Any) -> ProcessResult:
        raise NotImplementedError


@contextmanager
def module() -> Iterator[None]:
    """Functions that can be imported from the working directory."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "bench_tasks.py").write_text(MODULE)
        os.chdir(directory)
        sys.path.insert(0, directory)
        yield
        os.chdir("/")


async def calls(name: str, callers: int, count: int) -> float:
    """Calls a second with so many callers at once."""
    task_type, processes, registry = Python(), Processes(), PluginRegistry()
    registry.task_types["python"] = task_type
    params = PythonParams(callable=f"bench_tasks:{name}", kwargs={"x": "y" * 190})
    async with trio.open_nursery() as nursery:
        await nursery.start(processes.run)
        await nursery.start(serve_types, registry, "bench", processes)

        async def caller(count: int) -> None:
            for _ in range(count):
                await task_type.run(Context(), params)

        for each in (10, count // callers):
            began = time.perf_counter()
            async with trio.open_nursery() as work:
                for _ in range(callers):
                    work.start_soon(caller, each)
        rate = count / (time.perf_counter() - began)
        nursery.cancel_scope.cancel()
    return rate


async def drained(bench: Bench, what: str, count: int, **changes: Any) -> None:
    """Runs through one worker in the server, best of three."""
    done = (await bench.store.runs.count_by_state())[State.SUCCEEDED]
    rates = []
    for _ in range(3):
        await bench.store.queues.pause("default", paused=True)
        waiting = specs(count, **changes)
        for first in range(0, count, 1000):
            await bench.store.runs.submit(waiting[first : first + 1000], by="bench")
        began = time.monotonic()
        await bench.store.queues.pause("default", paused=False)
        done += count
        await finished(bench.store, done)
        rates.append(count / (time.monotonic() - began))
    print(f"{what:<60} {max(rates):>10,.0f}/s", flush=True)


async def main() -> None:
    """Measure everything, print the table."""
    cases = ("noop", 1, 20_000), ("noop", 2, 40_000), ("prints", 1, 20_000), ("anoop", 1, 200_000)
    for name, callers, count in cases:
        rate = await calls(name, callers, count)
        print(f"{f'calls of {name}, {callers} at once, without a server':<60} {rate:>10,.0f}/s", flush=True)
    async with server() as bench:
        await drained(bench, "runs of the engine benchmark's no-op type", 20_000)
        for what, name, count in (("async def", "anoop", 20_000), ("def", "noop", 10_000)):
            params = {"callable": f"bench_tasks:{name}", "args": [], "kwargs": {"x": "y" * 190}}
            await drained(bench, f"runs of a no-op `{what}`", count, type="python", params=params)


if __name__ == "__main__":
    with module():
        trio.run(main)
