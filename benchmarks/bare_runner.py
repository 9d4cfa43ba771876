"""The processes of the bare runner: one that executes runs by itself, or one that sends them to another over WebSocket.

    python bare_runner.py runner PATH     claims, executes and finishes; PATH is the socket of a Redis
    python bare_runner.py hub PATH        prints its port; claims and finishes what a worker executes
    python bare_runner.py worker PORT     executes

Who executes prints, for each line of standard input, when the runs since the line before have started.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import hiredis
import trio
from trio_websocket import WebSocketRequest, open_websocket_url, serve_websocket

__all__ = ["Wire"]

SLOTS = 100
REMOTE_SLOTS = 200

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

Runs = list[tuple[str, str]]
"""Ids and documents."""


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


class Claimer:
    """Claims runs, has them started, and finishes those that are done."""

    def __init__(self, slots: int, start: Callable[[Runs], Awaitable[None]]) -> None:
        self._start, self._slots, self._running = start, slots, 0
        self._woken, self._done = trio.Event(), list[str]()

    def finish(self, *run_ids: str) -> None:
        """These are done."""
        self._done += run_ids
        self._woken.set()

    async def run(self, path: str) -> None:
        """For ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, await Wire.to(path))
            nursery.start_soon(self._promote, await Wire.to(path))
            nursery.start_soon(self._work, await Wire.to(path))

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

    async def _work(self, wire: Wire) -> None:
        while True:
            await self._woken.wait()
            self._woken = trio.Event()
            done, self._done = self._done, []
            self._running -= len(done)
            now = time.time()
            claimed = await wire.call("EVAL", FINISH_AND_CLAIM, 0, now, now + 20, self._slots - self._running, *done)
            self._running += len(claimed) // 2
            if claimed:
                texts = [part.decode() for part in claimed]
                await self._start(list(zip(texts[::2], texts[1::2], strict=True)))


class Executor:
    """Executes no-op runs, and tells `finish` of each."""

    def __init__(self, nursery: trio.Nursery, finish: Callable[[str], None]) -> None:
        self._nursery, self._finish = nursery, finish
        self._started: dict[str, float] = {}

    async def start(self, runs: Runs) -> None:
        """Start them all."""
        for run_id, document in runs:
            self._nursery.start_soon(self._execute, run_id, document)

    async def _execute(self, run_id: str, document: str) -> None:
        json.loads(document)
        self._started[run_id] = time.monotonic()
        await trio.lowlevel.checkpoint()
        self._finish(run_id)

    async def tell(self) -> None:
        """Say when runs have started, for each line of standard input, until its end."""
        while await trio.to_thread.run_sync(sys.stdin.readline):
            print(json.dumps(self._started), flush=True)
            self._started.clear()


async def runner(path: str) -> None:
    """Do it all."""
    async with trio.open_nursery() as nursery:
        executor = Executor(nursery, lambda run_id: claimer.finish(run_id))
        claimer = Claimer(SLOTS, executor.start)
        nursery.start_soon(claimer.run, path)
        await executor.tell()
        nursery.cancel_scope.cancel()


async def hub(path: str) -> None:
    """Stand between Redis and one worker."""

    async def serve(request: WebSocketRequest) -> None:
        socket = await request.accept()

        async def send(runs: Runs) -> None:
            await socket.send_message(json.dumps(runs))

        claimer = Claimer(REMOTE_SLOTS, send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(claimer.run, path)
            while True:
                claimer.finish(*json.loads(await socket.get_message()))

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, serve, "127.0.0.1", 0, ssl_context=None))
        print(server.port, flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        nursery.cancel_scope.cancel()


async def worker(port: str) -> None:
    """Execute what the hub sends."""
    done, woken = list[str](), trio.Event()

    def finish(run_id: str) -> None:
        done.append(run_id)
        woken.set()

    async def report() -> None:
        nonlocal woken
        while True:
            await woken.wait()
            woken = trio.Event()
            told = json.dumps(done)
            done.clear()
            await socket.send_message(told)

    async def receive() -> None:
        while True:
            await executor.start(json.loads(await socket.get_message()))

    async with open_websocket_url(f"ws://127.0.0.1:{port}/") as socket, trio.open_nursery() as nursery:
        executor = Executor(nursery, finish)
        nursery.start_soon(report)
        nursery.start_soon(receive)
        await executor.tell()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run({"runner": runner, "hub": hub, "worker": worker}[sys.argv[1]], sys.argv[2])
