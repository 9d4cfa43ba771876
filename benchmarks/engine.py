"""The engine's figures beside their budgets, all in one run on one machine: `python benchmarks/engine.py`.

Everything is real: Redis with its file on disk, the web server, a client in a process of its own, child processes.
No figure means much alone on a shared machine; look at the ratio to the limits of the same run.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import trio
from bare import Bare, bare
from pydantic import BaseModel
from report import Report

from taskman.config import Address
from taskman.model.admission import Node
from taskman.model.ids import new_run_id
from taskman.model.run import RunSpec
from taskman.model.states import State
from taskman.model.task import TaskDefinition
from taskman.model.token import Bootstrap, Scope
from taskman.plugins import PluginRegistry, discover
from taskman.runtime.link_local import LocalLink
from taskman.runtime.scheduler import Scheduler
from taskman.runtime.watchdog import watch
from taskman.runtime.worker import Worker
from taskman.store.embedded import EmbeddedRedis
from taskman.store.runs import Submission
from taskman.store.store import Store
from taskman.tasktypes import TaskContext, TaskType
from taskman.web.access import Access
from taskman.web.app import create_app
from taskman.web.asgi import App
from taskman.web.drain import Drain
from taskman.web.express import Express
from taskman.web.guard import Guard, allowed_hosts
from taskman.web.listening import bound_urls, open_sockets
from taskman.web.services import Services
from taskman.web.serving import serve, settle_garbage_collector

TOKEN = "benchmark-token"
SLOTS = 200


class Noop(TaskType):
    """Does nothing, and remembers when."""

    name = "noop"

    class Params(BaseModel):
        x: str = ""

    started: ClassVar[dict[str, float]] = {}

    async def run(self, context: TaskContext, params: Params) -> None:
        """Note the time."""
        Noop.started[context.run_id] = time.monotonic()


@dataclass
class Bench:
    """A server in this process, and the bare runner to compare it with."""

    store: Store
    url: str
    machine: Bare


def types() -> PluginRegistry:
    """The task types that are installed, and the no-op."""
    registry = discover()
    registry.task_types["noop"] = Noop()
    return registry


async def start_worker(store: Store, nursery: trio.Nursery, name: str, slots: int, labels: dict[str, str]) -> Worker:
    """A worker as a server has it."""
    registry = types()
    node = Node(id=name, types=frozenset(registry.task_types), labels=labels, slots=slots, running=0)
    link = LocalLink(store, node)
    worker = Worker(link, registry, slots)
    await nursery.start(link.run)
    await nursery.start(worker.run)
    return worker


@asynccontextmanager
async def server():  # type: ignore[no-untyped-def]
    """Store, worker, scheduler, watchdog and web, as `taskman up` has them, with the no-op type."""
    registry, drain = types(), Drain()
    async with bare() as machine, EmbeddedRedis(Path(tempfile.mkdtemp())) as redis, trio.open_nursery() as nursery:
        store = Store(redis.url)
        await nursery.start(store.run)
        worker = await start_worker(store, nursery, "w1", SLOTS, {})
        await nursery.start(Scheduler(store).run)
        nursery.start_soon(watch, store)
        services = Services(
            store, registry, drain, "UTC", Access(store, {TOKEN: Bootstrap("bench", Scope.ADMIN)}), b"key"
        )
        addresses = [Address("127.0.0.1", 0)]
        application = Express(cast(App, create_app(services)), services)
        guarded = Guard(application, hosts=allowed_hosts(addresses), drain=drain)
        sockets = open_sockets(addresses)
        await nursery.start(partial(serve, guarded, sockets, drain))
        settle_garbage_collector()
        yield Bench(store, bound_urls(sockets)[0], machine)
        drain.start()
        await worker.drain(1)
        nursery.cancel_scope.cancel()


def specs(count: int, **changes: Any) -> list[Submission]:
    """Submissions with a payload of 200 bytes."""
    spec = RunSpec(**{"type": "noop", "params": {"x": "y" * 190}, **changes})
    return [Submission(new_run_id(), spec) for _ in range(count)]


async def finished(store: Store, count: int) -> None:
    """Wait until so many runs have succeeded."""
    while (await store.runs.count_by_state())[State.SUCCEEDED] < count:
        await trio.sleep(0.01)


async def memory(store: Store) -> int:
    """Bytes that Redis uses."""
    info = await store.connection.execute("INFO", "memory")
    return int(next(line for line in info.decode().splitlines() if line.startswith("used_memory:")).split(":")[1])


async def drained(bench: Bench, report: Report, count: int = 40_000) -> None:
    """No-op runs through one worker in the server, best of three; and what they cost in memory."""
    rates, limits, done = [], list[float](), (await bench.store.runs.count_by_state())[State.SUCCEEDED]
    kept, before = done, await memory(bench.store)
    for _ in range(3):
        await bench.store.queues.pause("default", paused=True)
        waiting = specs(count)
        for first in range(0, count, 1000):
            await bench.store.runs.submit(waiting[first : first + 1000], by="bench")
        began = time.monotonic()
        await bench.store.queues.pause("default", paused=False)
        done += count
        await finished(bench.store, done)
        rates.append(count / (time.monotonic() - began))
        limits.append(await bench.machine.drain())
    report.rate("no-op runs drained by one worker in the server", max(rates), 13_000, "drain", max(limits))
    each = (await memory(bench.store) - before) / (done - kept)
    report.most("Redis memory per finished run (200 B payload)", each, "B", 1000)


CLIENT = """
import http.client, json, sys, time
host, mode, count, token = sys.argv[1:5]; count = int(count)
c = http.client.HTTPConnection(host); h = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
body = {"type": "noop", "params": {"x": "y" * 190}}
def post(path, data, kind="application/json"):
    c.request("POST", "/api/v1" + path, data, {**h, "Content-Type": kind}); r = c.getresponse(); b = r.read()
    assert r.status in (200, 201), b
    return json.loads(b)
if mode == "bulk":
    data = "\\n".join([json.dumps(body)] * 10000)
    post("/runs/bulk", data, "application/x-ndjson")
    t = time.monotonic()
    for _ in range(count): post("/runs/bulk", data, "application/x-ndjson")
    print(json.dumps(count * 10000 / (time.monotonic() - t)))
elif mode == "rate":
    data = json.dumps(body); t = time.monotonic()
    for _ in range(count): post("/runs", data)
    print(json.dumps(count / (time.monotonic() - t)))
else:
    sent = {}
    for _ in range(count):
        t = time.monotonic(); sent[post("/runs", json.dumps(body))["id"]] = t; time.sleep(0.02)
    print(json.dumps(sent))
"""


async def client(bench: Bench, mode: str, count: int) -> Any:
    """What the client process reports."""
    host = bench.url.removeprefix("http://")
    command = [sys.executable, "-c", CLIENT, host, mode, str(count), TOKEN]
    done = await trio.run_process(command, capture_stdout=True)
    return json.loads(done.stdout)


async def rest(bench: Bench, report: Report) -> None:
    """Submitting over REST: latency to the start, one by one, in bulk."""
    sent = await client(bench, "latency", 200)
    late = sorted((Noop.started[run_id] - at) * 1000 for run_id, at in sent.items())
    limit = await bench.machine.latency()
    report.most("submit to start over REST, idle: p50", statistics.median(late), "ms", 3, "latency", limit)
    report.most("submit to start over REST, idle: p99", late[int(len(late) * 0.99) - 1], "ms", 10, "latency", limit)
    rate, limit = await client(bench, "rate", 2000), await bench.machine.single()
    report.rate("single submits over REST, one connection", rate, 1000, "single", limit)
    await bench.store.queues.pause("default", paused=True)
    rate, limit = await client(bench, "bulk", 5), await bench.machine.bulk()
    report.rate("bulk submit over REST", rate, 25_000, "bulk", limit)
    await bench.store.queues.pause("default", paused=False)


async def quiet(bench: Bench) -> None:
    """Wait until nothing waits or runs."""
    while True:
        counts = await bench.store.runs.count_by_state()
        if not any(counts[state] for state in (State.QUEUED, State.RUNNING, State.SCHEDULED, State.BLOCKED)):
            return
        await trio.sleep(0.05)


async def due_together(bench: Bench, report: Report) -> None:
    """1,000 one-shot runs due in the same second: how late the last one starts."""
    now_ms, here = await bench.store.runs.now(), time.monotonic()
    due_ms = now_ms + 2000
    batch = [Submission(one.id, one.spec, due_ms) for one in specs(1000)]
    await bench.store.runs.submit(batch, by="bench")
    await trio.sleep(2.2)
    await quiet(bench)
    late = sorted((Noop.started[one.id] - here) * 1000 - 2000 for one in batch)
    limit = await bench.machine.due()
    report.most("1,000 runs due in one second: the last start", late[-1], "ms", 120, "due", limit)
    report.most("1,000 runs due in one second: how early the first", max(0.0, -late[0]), "ms", 1)


async def schedules(bench: Bench, report: Report, seconds: int = 10) -> None:
    """100 schedules of one second each: lateness, and none missed."""
    now_ms = await bench.store.runs.now()
    for number in range(100):
        body = {"name": f"s{number}", "type": "noop", "schedules": [{"every": 1}], "overlap": "allow"}
        await bench.store.tasks.save(TaskDefinition.model_validate(body), now_ms)
    await trio.sleep(seconds)
    for number in range(100):
        await bench.store.tasks.delete(f"s{number}")
    await quiet(bench)
    late, count = [], 0
    for number in range(100):
        for run in (await bench.store.runs.page(task=f"s{number}", limit=100)).runs:
            late.append((run.started_ms or 0) - (run.spec.fire_time_ms or 0))
            count += 1
    p99 = sorted(late)[int(len(late) * 0.99) - 1]
    limit = await bench.machine.due()
    report.most(f"100 schedules of 1 s, {count} runs: lateness p99", p99, "ms", 20, "due", limit)


async def spawns(bench: Bench, report: Report, count: int = 3000) -> None:
    """Shell runs of /bin/true, eight at once, beside a bare loop."""
    limit = await bench.machine.spawns()
    done = (await bench.store.runs.count_by_state())[State.SUCCEEDED]
    batch = specs(count, type="shell", params={"argv": ["/bin/true"]}, requires={"slots": "eight"})
    async with trio.open_nursery() as nursery:
        await start_worker(bench.store, nursery, "w8", 8, {"slots": "eight"})
        began = time.monotonic()
        await bench.store.runs.submit(batch, by="bench")
        await finished(bench.store, done + count)
        rate = count / (time.monotonic() - began)
        nursery.cancel_scope.cancel()
    limit = max(limit, await bench.machine.spawns())
    report.rate("/bin/true as shell runs, 8 at once", rate, 1300, "spawns", limit)
    report.note("  a bare loop of 8 threads in the same run", f"{limit:,.0f}/s ({rate / limit:.2f})")


def idle(report: Report, seconds: float = 20.0) -> None:
    """A server that has nothing to do: processor time a minute and memory."""
    directory = tempfile.mkdtemp()
    command = [sys.executable, "-m", "taskman", "up", "--no-open", "--port", "0", "--data-dir", directory]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "Ctrl-C" not in process.stdout.readline():
            continue
        time.sleep(2)
        before = cpu_of(process.pid)
        time.sleep(seconds)
        each = (cpu_of(process.pid) - before) * 60 / seconds
        resident = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        process.terminate()
    report.most("idle server: processor time a minute", each, "s", 0.3)
    report.most("idle server: memory", resident, "MiB", 120)


def cpu_of(pid: int) -> float:
    """Processor seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


PARTS: Sequence[Callable[[Bench, Report], Any]] = (rest, due_together, schedules, spawns, drained)


async def main() -> None:
    """Measure everything, print the table."""
    report = Report()
    async with server() as bench:
        for part in PARTS:
            await quiet(bench)
            await part(bench, report)
    await trio.to_thread.run_sync(idle, report)


if __name__ == "__main__":
    trio.run(main)
