"""What this machine can do at all: the least that a task runner can be, measured beside ours in the same run.

One process that executes, one Redis, a hash for each run, a list, a sorted set of leases, three scripts; or two, with a
WebSocket between who claims and who executes. No retries, no routing, no logs, no cancel, no web. Its figures move with
the machine, so a budget can move along: see report.py.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from bare_runner import Wire

from taskman.store.embedded import EmbeddedRedis

PAYLOAD = json.dumps({"type": "noop", "params": {"x": "y" * 190}})

SUBMIT = """
for i = 2, #ARGV do
  redis.call('HSET', 'run:' .. ARGV[i], 'spec', ARGV[1], 'state', 'queued')
  redis.call('RPUSH', 'queue', ARGV[i])
end"""


class Bare:
    """The client of such a runner; each method is one figure of this machine, now."""

    def __init__(self, wire: Wire, runner: trio.Process) -> None:
        self._wire, self._runner = wire, runner

    async def single(self, count: int = 2000) -> float:
        """Runs submitted a second, one after the other."""
        began = time.monotonic()
        for _ in range(count):
            await self._submit(_ids(1))
        return count / (time.monotonic() - began)

    async def bulk(self, count: int = 20_000) -> float:
        """Runs submitted a second, a hundred in a call."""
        ids = _ids(count)
        began = time.monotonic()
        for first in range(0, count, 100):
            await self._submit(ids[first : first + 100])
        return count / (time.monotonic() - began)

    async def drain(self, count: int = 40_000) -> float:
        """Runs executed a second."""
        await self._finished()
        for _ in range(count // 1000):
            await self._submit(_ids(1000))
        began = time.monotonic()
        await self._wire.call("PUBLISH", "news", "")
        await self._finished()
        return count / (time.monotonic() - began)

    async def latency(self, count: int = 200) -> float:
        """From submit to start, idle: the median, ms."""
        await self._finished()
        await self._starts()
        sent = {}
        for _ in range(count):
            (run_id,) = _ids(1)
            sent[run_id] = time.monotonic()
            await self._submit([run_id])
            await self._wire.call("PUBLISH", "news", "")
            await trio.sleep(0.02)
        started = await self._starts()
        return statistics.median((started[run_id] - at) * 1000 for run_id, at in sent.items())

    async def due(self, count: int = 1000) -> float:
        """Of so many runs due at one instant, how late the last one starts, ms."""
        await self._finished()
        await self._starts()
        ids, at = _ids(count), time.time() + 1
        await self._wire.call("EVAL", "for i = 2, #ARGV do redis.call('HSET', 'run:' .. ARGV[i], 'spec', ARGV[1]) end",
                              0, PAYLOAD, *ids)  # fmt: skip
        await self._wire.call("ZADD", "later", *(part for one in ids for part in (at, one)))
        offset = time.time() - time.monotonic()
        await trio.sleep(2)
        started = await self._starts()
        return max(started[one] + offset - at for one in ids) * 1000

    async def spawns(self, count: int = 3000) -> float:
        """`/bin/true` started and waited for, eight at once."""
        return await trio.to_thread.run_sync(_spawns, count)

    async def _submit(self, ids: Sequence[str]) -> None:
        await self._wire.call("EVAL", SUBMIT, 0, PAYLOAD, *ids)

    async def _finished(self) -> None:
        while await self._wire.call("LLEN", "queue") or await self._wire.call("ZCARD", "leases"):
            await self._wire.call("PUBLISH", "news", "")
            await trio.sleep(0.005)

    async def _starts(self) -> dict[str, float]:
        assert self._runner.stdin is not None
        assert self._runner.stdout is not None
        await self._runner.stdin.send_all(b"\n")
        told = b""
        while not told.endswith(b"\n"):
            told += await self._runner.stdout.receive_some()
        found: dict[str, float] = json.loads(told)
        return found


@asynccontextmanager
async def bare() -> AsyncIterator[Bare]:
    """The bare runner on a Redis of its own, for the block."""
    async with EmbeddedRedis(Path(tempfile.mkdtemp())) as redis, trio.open_nursery() as nursery:
        path = _path(redis)
        yield Bare(await Wire.to(path), await nursery.start(_process, "runner", path))
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def bare_remote() -> AsyncIterator[Bare]:
    """The same with who executes behind a WebSocket."""
    async with EmbeddedRedis(Path(tempfile.mkdtemp())) as redis, trio.open_nursery() as nursery:
        path = _path(redis)
        hub = await nursery.start(_process, "hub", path)
        port = (await hub.stdout.receive_some()).decode().strip()
        yield Bare(await Wire.to(path), await nursery.start(_process, "worker", port))
        nursery.cancel_scope.cancel()


def _path(redis: EmbeddedRedis) -> str:
    return redis.url.partition("://")[2].partition("?")[0]


async def _process(*arguments: str, task_status: trio.TaskStatus[trio.Process]) -> None:
    command = [sys.executable, str(Path(__file__).with_name("bare_runner.py")), *arguments]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "check": False}
    await trio.run_process(command, **pipes, task_status=task_status)


def _ids(count: int) -> list[str]:
    batch = uuid.uuid4().hex[:12]
    return [f"{batch}{number:06}" for number in range(count)]


def _spawns(count: int) -> float:
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: subprocess.Popen(["/bin/true"]).wait(), range(count)))
    return count / (time.monotonic() - began)


async def main() -> None:
    """Show what this machine can do."""
    async with bare() as machine, bare_remote() as remote:
        for figure in (machine.single, machine.bulk, machine.drain, machine.latency, machine.due, machine.spawns):
            _show(figure.__name__, await figure(), figure.__doc__)
        for figure in (remote.drain, remote.latency):
            _show(f"{figure.__name__}, remote", await figure(), figure.__doc__)


def _show(name: str, found: float, about: str | None) -> None:
    print(f"{name:<16} {found:12,.1f}   {(about or '').splitlines()[0]}")


if __name__ == "__main__":
    trio.run(main)
