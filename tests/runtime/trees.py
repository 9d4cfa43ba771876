"""Process trees to test with, and what can be seen of them from outside."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from taskman.runtime.process import Processes, ProcessSpec
from taskman.runtime.shim.table import processes

PYTHON = (sys.executable, "-I", "-S", "-c")
ENV = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
looks_in_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


def within(seconds: float) -> Callable[[Any], Any]:
    """Bound a test."""

    def decorate(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        @functools.wraps(test)
        async def bounded(*args: Any, **kwargs: Any) -> None:
            with trio.fail_after(seconds):
                await test(*args, **kwargs)

        return bounded

    return decorate


async def until(true: Callable[[], Any]) -> None:
    """Wait for a state of another process, which nothing announces."""
    while not true():
        await trio.sleep(0.005)


class Output:
    """Keeps what a process writes."""

    def __init__(self) -> None:
        self.bytes = {"out": b"", "err": b""}

    async def __call__(self, stream: str, data: bytes) -> None:
        self.bytes[stream] += data

    def has(self, text: bytes) -> bool:
        return text in self.bytes["out"]


def state(pid: int) -> str:
    """The letter of a process's state, "X" when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def carrying(mark: str) -> list[int]:
    """The living processes with `mark` in their environment or arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            text = (path / "environ").read_bytes() + (path / "cmdline").read_bytes()
        except OSError:
            continue
        if mark.encode() in text and state(int(path.name)) not in "ZX":
            found.append(int(path.name))
    return found


def listens(pid: int) -> bool:
    """Whether a process has a Unix socket on which it listens: so has a shim that holds its tree."""
    table = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    sockets = {f"socket:[{words[6]}]" for words in table if words[3] == "00010000"}
    try:
        return any(os.readlink(link) in sockets for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def parent(pid: int) -> int:
    """The parent of a process, 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def shims() -> set[int]:
    """The shims of this process."""
    children = [child.pid for child in processes() if child.parent == os.getpid()]
    return {pid for pid in children if b"/shim/" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def spec(*argv: str, grace_s: float = 5.0, mark: str = "", **changes: Any) -> ProcessSpec:
    marks = {"TASKMAN_RUN_ID": mark, "TASKMAN_ATTEMPT": "1"} if mark else {}
    fields: dict[str, Any] = {"cwd": None, "env": ENV | marks, "stdin": None, "user": None}
    return ProcessSpec(argv=argv, grace_s=grace_s, **fields | changes)


def shell(script: str, mark: str = "", **changes: Any) -> ProcessSpec:
    return spec("/bin/sh", "-c", script, mark or "sh", mark=mark, **changes)


RESTART = """
import os, sys, time
def keep(partner):
    while True:
        if os.fork() == 0:
            os.setsid()
            if partner: keep(False)
            time.sleep(1000)
        os.wait()
sys.stdout.write('ready'); sys.stdout.flush(); keep(True)
"""
HOP = """
import os, sys
sys.stdout.write('ready'); sys.stdout.flush()
while True:
    if os.fork(): os._exit(0)
"""
TREES = {
    "a background child": "sleep 1000 & echo ready; wait",
    "a child that left the session": "sleep 1000 & setsid sleep 1001 & echo ready; wait",
    "a daemon forked twice": "(setsid sleep 1000 &); echo ready; sleep 1001",
    "a daemon without its environment": '(env -i setsid sh -c "sleep 1000; :" $0 &); echo ready; sleep 1001',
    "a tree that ignores SIGTERM": 'trap "" TERM; setsid sleep 1000 & echo ready; wait',
    "a shell that forks all the time": 'echo ready; while :; do sh -c "sleep 1000" & sh -c : & done',
    "a stopped process": "sleep 1000 & kill -STOP $!; echo ready; kill -STOP $$",
    "processes that restart each other": f'exec {" ".join(PYTHON)} "{RESTART}" $0',
    "a process that forks and exits": f'{" ".join(PYTHON)} "{HOP}" $0; sleep 1000',
}


async def cancel_when_ready(processes: Processes, what: ProcessSpec, output: Output) -> None:
    """Run until the process says that it is ready, then cancel; return when `execute` has."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(processes.execute, what, output)
        await until(lambda: output.has(b"ready"))
        nursery.cancel_scope.cancel()
    assert nursery.cancel_scope.cancelled_caught
