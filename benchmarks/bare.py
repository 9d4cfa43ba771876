"""What this machine can do at all: the least that a task runner can be, measured beside ours in the same run.

One process that executes, one Redis, a hash for each run, a list, a sorted set of leases, three scripts. No retries, no
routing, no logs, no cancel, no web. Its figures move with the machine, so a budget can move along: see report.py.
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
from functools import partial
from pathlib import Path
from typing import Any

import hiredis
import trio

from taskman.store.embedded import EmbeddedRedis

AT_ONCE = 100
PAYLOAD = json.dumps({"type": "noop", "params": {"x": "y" * 190}})

SUBMIT = """
for i = 2, #ARGV do
  redis.call('HSET', 'run:' .. ARGV[i], 'spec', ARGV[1], 'state', 'queued')
  redis.call('RPUSH', 'queue', ARGV[i])
end"""
FINISH_AND_CLAIM = """
for i = 4, #ARGV do
  redis.call('HSET', 'run:' .. ARGV[i], 'state', 'succeeded', 'finished', ARGV[1])
  redis.call('ZREM', 'leases', ARGV[i])
end
if #ARGV > 3 then redis.call('INCRBY', 'finished', #ARGV - 3) end
local found = {}
for _, id in ipairs(tonumber(ARGV[3]) > 0 and redis.call('LPOP', 'queue', ARGV[3]) or {}) do
  redis.call('HSET', 'run:' .. id, 'state', 'running', 'started', ARGV[1])
  redis.call('ZADD', 'leases', ARGV[2], id)
  found[#found + 1] = id
  found[#found + 1] = redis.call('HGET', 'run:' .. id, 'spec')
end
redis.call('PUBLISH', 'states', #found)
return found"""
PROMOTE = """
local due = redis.call('ZRANGEBYSCORE', 'later', '-inf', ARGV[1])
if #due > 0 then
  redis.call('ZREM', 'later', unpack(due))
  redis.call('RPUSH', 'queue', unpack(due))
end
return redis.call('ZRANGE', 'later', 0, 0, 'WITHSCORES')[2]"""


class Wire:
    """One connection to Redis, one call at a time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream, self._reader = stream, hiredis.Reader()

    @classmethod
    async def to(cls, path: str) -> Wire:
        """Connect to a Redis on a unix socket."""
        return cls(await trio.open_unix_socket(path))

    async def call(self, *command: Any) -> Any:
        """The reply to a command."""
        await self._stream.send_all(hiredis.pack_command(command))
        return await self.receive()

    async def receive(self) -> Any:
        """The next reply, or message."""
        while (reply := self._reader.gets()) is False:
            self._reader.feed(await self._stream.receive_some(65536))
        return reply


class Runner:
    """Executes no-op runs; what a process of its own does."""

    def __init__(self) -> None:
        self._woken, self._done, self._running = trio.Event(), list[bytes](), 0
        self.started: dict[str, float] = {}

    async def run(self, path: str) -> None:
        """Work until a line comes on standard input; then tell when each run has started."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, await Wire.to(path))
            nursery.start_soon(self._promote, await Wire.to(path))
            nursery.start_soon(self._work, await Wire.to(path), nursery)
            while await trio.to_thread.run_sync(sys.stdin.readline):
                print(json.dumps(self.started), flush=True)
                self.started.clear()
            nursery.cancel_scope.cancel()

    async def _listen(self, wire: Wire) -> None:
        await wire.call("SUBSCRIBE", "news")
        while True:
            await wire.receive()
            self._woken.set()

    async def _promote(self, wire: Wire) -> None:
        while True:
            following = await wire.call("EVAL", PROMOTE, 0, time.time())
            self._woken.set()
            await trio.sleep(min(0.05, max(0.0, float(following) - time.time())) if following else 0.05)

    async def _work(self, wire: Wire, nursery: trio.Nursery) -> None:
        while True:
            await self._woken.wait()
            self._woken = trio.Event()
            done, self._done = self._done, []
            self._running -= len(done)
            now = time.time()
            claimed = await wire.call("EVAL", FINISH_AND_CLAIM, 0, now, now + 20, AT_ONCE - self._running, *done)
            for run_id, spec in zip(claimed[::2], claimed[1::2], strict=True):
                self._running += 1
                nursery.start_soon(self._execute, run_id, spec)

    async def _execute(self, run_id: bytes, spec: bytes) -> None:
        json.loads(spec)
        self.started[run_id.decode()] = time.monotonic()
        await trio.lowlevel.checkpoint()
        self._done.append(run_id)
        self._woken.set()


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
        path = redis.url.partition("://")[2].partition("?")[0]
        command = [sys.executable, __file__, path]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        runner = await nursery.start(partial(trio.run_process, command, check=False, **pipes))
        yield Bare(await Wire.to(path), runner)
        nursery.cancel_scope.cancel()


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
    async with bare() as machine:
        for figure in (machine.single, machine.bulk, machine.drain, machine.latency, machine.due, machine.spawns):
            print(f"{figure.__name__:<10} {await figure():12,.1f}   {(figure.__doc__ or '').splitlines()[0]}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        trio.run(Runner().run, sys.argv[1])
    else:
        trio.run(main)
