"""Remote workers' figures beside their budgets: `python benchmarks/workers.py`.

The server is this process, its worker another, and so is Redis; simulated workers share a process of their own.
No figure means much alone on a shared machine: processor time stands beside each rate.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import trio
from bare import Bare, bare, bare_remote
from engine import TOKEN, Noop, client, cpu_of, finished, specs
from report import Report

from taskman.config import Address
from taskman.garbage import settle_garbage_collector
from taskman.model.states import State
from taskman.model.token import Bootstrap, Scope
from taskman.plugins import discover
from taskman.runtime.dispatcher import Dispatcher
from taskman.runtime.frames import Frames, Peer
from taskman.runtime.scheduler import Scheduler
from taskman.runtime.sessions import Sessions
from taskman.runtime.watchdog import watch
from taskman.store.embedded import EmbeddedRedis
from taskman.store.store import Store
from taskman.web.access import Access
from taskman.web.app import create_app
from taskman.web.asgi import App
from taskman.web.drain import Drain
from taskman.web.express import Express
from taskman.web.listening import bound_urls, open_sockets
from taskman.web.services import Services
from taskman.web.serving import serve
from taskman.web.worker_socket import WorkerSocket

SLOTS = 200
CROWD = 1000


@dataclass
class Bench:
    """A server in this process, without a worker of its own, and the bare runners to compare it with."""

    store: Store
    url: str
    machine: Bare
    remote: Bare


@asynccontextmanager
async def server() -> AsyncIterator[Bench]:
    """Everything but a local worker; the no-op type is known by name only."""
    async with (
        bare() as machine,
        bare_remote() as remote,
        EmbeddedRedis(Path(tempfile.mkdtemp())) as redis,
        trio.open_nursery() as nursery,
    ):
        store, drain = Store(redis.url), Drain()
        await nursery.start(store.run)
        dispatcher = Dispatcher(store)
        await nursery.start(dispatcher.run)
        await nursery.start(Scheduler(store).run)
        nursery.start_soon(watch, store)
        sessions = Sessions(store, dispatcher, "bench")

        async def serve_worker(frames: Frames, address: str, owner: str, ended: Callable[[], Awaitable[None]]) -> None:
            await sessions.serve(frames, Peer(address, owner, ended))

        registry = discover()
        registry.task_types["noop"] = Noop()
        access = Access(store, {TOKEN: Bootstrap("bench", Scope.ADMIN)})
        await nursery.start(access.run)
        services = Services(store, registry, drain, "UTC", access, b"key")
        app = WorkerSocket(Express(cast(App, create_app(services)), services), services, serve_worker)
        sockets = open_sockets([Address("127.0.0.1", 0)])
        await nursery.start(partial(serve, app, sockets, drain))
        settle_garbage_collector()
        yield Bench(store, bound_urls(sockets)[0], machine, remote)
        sessions.stop()
        drain.start()
        nursery.cancel_scope.cancel()


WORKER = """
import json, os, sys, tempfile
from pathlib import Path
import trio
sys.path.insert(0, sys.argv[4])
from engine import Noop
from taskman.garbage import settle_garbage_collector
from taskman.model.admission import Node
from taskman.plugins import discover
from taskman.runtime.dialing import Server
from taskman.runtime.link_remote import RemoteLink
from taskman.runtime.spool import Spool
from taskman.runtime.worker import Worker

async def main(url, token, slots):
    registry = discover(); registry.task_types["noop"] = Noop()
    node = Node(id=f"bench-{os.getpid()}", types=frozenset(registry.task_types), labels={}, slots=slots, running=0)
    spool = Spool(Path(tempfile.mkdtemp()), 2**30)
    link = RemoteLink(Server(url, token, "bench").dial, node, dict.fromkeys(registry.task_types, ""), spool)
    async with trio.open_nursery() as nursery:
        await nursery.start(link.run)
        await nursery.start(Worker(link, registry, slots).run)
        settle_garbage_collector()
        await trio.to_thread.run_sync(sys.stdin.readline)
        print(json.dumps(Noop.started), flush=True)
        nursery.cancel_scope.cancel()

trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""

CROWD_PROGRAM = """
import sys, random
import trio
from taskman.runtime import wire
from taskman.runtime.dialing import Server

async def one(url, token, number, ready):
    async with Server(url, token, "bench").dial() as frames:
        hello = wire.Hello(id=f"idle-{number}", slots=4, types={"idle": "1"})
        for frame in wire.frames_of([wire.encode(hello), wire.encode(wire.Want(4))]):
            await frames.send(frame)
        await frames.receive()
        ready.append(number)
        if len(ready) == int(sys.argv[3]):
            print("ready", flush=True)
        await trio.sleep(random.uniform(0, 5))
        while True:
            for frame in wire.frames_of([wire.encode(wire.Beat([], 0))]):
                await frames.send(frame)
            await frames.receive()
            await trio.sleep(5)

async def main(url, token, count):
    ready = []
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(one, url, token, number, ready)
            await trio.sleep(0.002)

trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""


@asynccontextmanager
async def process(program: str, *arguments: str) -> AsyncIterator[trio.Process]:
    """A program of ours in a process of its own, for the block."""
    command = [sys.executable, "-c", program, *arguments]
    async with trio.open_nursery() as nursery:
        running = await nursery.start(
            partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, check=False)
        )
        yield running
        nursery.cancel_scope.cancel()


async def connected(store: Store, worker: trio.Process) -> None:
    """Wait until that worker is there."""
    while f"bench-{worker.pid}" not in {one.node.id for one in await store.workers.live()}:
        await trio.sleep(0.02)


async def drained(bench: Bench, worker: trio.Process, report: Report, count: int = 40_000) -> None:
    """No-op runs through one remote worker, best of three; and the processor time of each run."""
    rates, costs, limits = [], [], list[float]()
    done = (await bench.store.runs.count_by_state())[State.SUCCEEDED]
    for _ in range(3):
        await bench.store.queues.pause("default", paused=True)
        waiting = specs(count)
        for first in range(0, count, 1000):
            await bench.store.runs.submit(waiting[first : first + 1000], by="bench")
        cpu, began = (cpu_of(os.getpid()), cpu_of(worker.pid)), time.monotonic()
        await bench.store.queues.pause("default", paused=False)
        done += count
        await finished(bench.store, done)
        rates.append(count / (time.monotonic() - began))
        costs.append((cpu_of(os.getpid()) - cpu[0], cpu_of(worker.pid) - cpu[1]))
        limits.append(await bench.remote.drain())
    cost = min(costs)
    report.rate("no-op runs drained by one remote worker", max(rates), 12_000, "drain, remote", max(limits))
    each = f"{cost[0] / count * 1e6:.0f} + {cost[1] / count * 1e6:.0f} µs"
    report.note("  processor time of a run: server + worker", each)


async def latency(bench: Bench, worker: trio.Process, report: Report) -> None:
    """From submitting over REST to the start in the worker."""
    sent = await client(cast(Any, bench), "latency", 200)
    assert worker.stdin is not None
    assert worker.stdout is not None
    await worker.stdin.send_all(b"\n")
    told = b""
    while not told.endswith(b"\n"):
        told += await worker.stdout.receive_some()
    started = json.loads(told)
    late = sorted((started[run_id] - at) * 1000 for run_id, at in sent.items())
    p50, p99, limit = statistics.median(late), late[int(len(late) * 0.99) - 1], await bench.remote.latency()
    report.most("submit to start over REST and WebSocket, idle: p50", p50, "ms", 3, "latency, remote", limit)
    report.most("submit to start over REST and WebSocket, idle: p99", p99, "ms", 10, "latency, remote", limit)


async def spawned(bench: Bench, report: Report, count: int = 2000) -> None:
    """Shell runs of /bin/true through a remote worker with eight slots; each has its log and its journal."""
    limit, done = await bench.machine.spawns(), (await bench.store.runs.count_by_state())[State.SUCCEEDED]
    batch = specs(count, type="shell", params={"argv": ["/bin/true"]})
    began = time.monotonic()
    for first in range(0, count, 1000):
        await bench.store.runs.submit(batch[first : first + 1000], by="bench")
    await finished(bench.store, done + count)
    rate, limit = count / (time.monotonic() - began), max(limit, await bench.machine.spawns())
    report.rate("/bin/true as shell runs on a remote worker, 8 at once", rate, 1300, "spawns", limit)
    report.note("  a bare loop of 8 threads in the same run", f"{limit:,.0f}/s ({rate / limit:.2f})")


def resident() -> float:
    """Memory of this process in KiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


async def crowd(bench: Bench, report: Report, seconds: float = 20.0) -> None:
    """Idle workers: memory and processor time on the server, and what one run among them costs."""
    before = resident()
    async with process(CROWD_PROGRAM, bench.url, TOKEN, str(CROWD)) as workers:
        assert workers.stdout is not None
        began, cpu = time.monotonic(), cpu_of(os.getpid())
        await workers.stdout.receive_some()
        took, connecting = time.monotonic() - began, cpu_of(os.getpid()) - cpu
        report.note(f"{CROWD} workers connect: time, processor", f"{took:.1f} s, {connecting:.1f} s")
        report.most("memory of an idle worker on the server", (resident() - before) / CROWD, "KiB", 64)
        await trio.sleep(6)
        cpu = cpu_of(os.getpid())
        await trio.sleep(seconds)
        busy = (cpu_of(os.getpid()) - cpu) / seconds
        limit = await bench.machine.drain()
        report.most(f"{CROWD} idle workers: processor", busy * 100, "%", 15, "drain", limit)


async def main() -> None:
    """Measure everything, print the table."""
    report = Report()
    here = str(Path(__file__).parent)
    async with server() as bench:
        async with process(WORKER, bench.url, TOKEN, str(SLOTS), here) as worker:
            await connected(bench.store, worker)
            await drained(bench, worker, report)
        async with process(WORKER, bench.url, TOKEN, str(SLOTS), here) as worker:
            await connected(bench.store, worker)
            await trio.sleep(1)
            await latency(bench, worker, report)
        async with process(WORKER, bench.url, TOKEN, "8", here) as worker:
            await connected(bench.store, worker)
            await spawned(bench, report)
        await crowd(bench, report)


if __name__ == "__main__":
    trio.run(main)
