"""Calls per second of one Lua call of three commands: our connection beside redis-py in threads and coredis.

Starts a Redis of its own. All rows of a table come from one run, so their ratios hold on any machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import coredis
import redis
import trio

from taskman.store.connection import Connection
from taskman.store.embedded import EmbeddedRedis
from taskman.store.scripts import Script

CALLERS = (1, 10, 100, 1000)
KEYS = ["bench:list", "bench:hash"]
PAYLOAD = "x" * 200
SCRIPT = Script.of(
    "bench",
    b"redis.call('LPUSH', KEYS[1], ARGV[1]) "
    b"redis.call('HSET', KEYS[2], 'a', ARGV[1], 'b', '2') "
    b"redis.call('LPOP', KEYS[1]) "
    b"return 1",
)

Call = Callable[[], Awaitable[object]]


@asynccontextmanager
async def ours(url: str) -> AsyncIterator[Call]:
    async with trio.open_nursery() as nursery:
        connection = Connection(url)
        await nursery.start(connection.run)
        yield lambda: connection.script(SCRIPT, KEYS, [PAYLOAD])
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def redis_py_in_threads(url: str) -> AsyncIterator[Call]:
    with redis.Redis.from_url(url) as client:
        script = client.register_script(SCRIPT.source)
        yield lambda: trio.to_thread.run_sync(script, KEYS, [PAYLOAD])


@asynccontextmanager
async def coredis_on_trio(url: str) -> AsyncIterator[Call]:
    async with coredis.Redis.from_url(url) as client:
        sha = await client.script_load(SCRIPT.source)
        yield lambda: client.evalsha(sha, KEYS, [PAYLOAD])


# The share of --calls that each is given, so that each takes about as long.
PEERS = {"ours": (ours, 1.0), "redis-py in threads": (redis_py_in_threads, 0.025), "coredis": (coredis_on_trio, 0.05)}


async def rate(call: Call, callers: int, calls: int) -> float:
    """Calls per second when `callers` tasks share `calls` calls, each with one call under way."""
    turns = iter(range(calls))

    async def caller() -> None:
        for _ in turns:
            await call()

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(callers):
            nursery.start_soon(caller)
    return calls / (time.perf_counter() - began)


async def measure(url: str, calls: int, rounds: int) -> dict[str, list[float]]:
    """The median rates of each peer, one for each number of callers; in each round all peers take turns."""
    rates: dict[str, list[list[float]]] = {name: [] for name in PEERS}
    for _ in range(rounds):
        for name, (connect, share) in PEERS.items():
            async with connect(url) as call:
                await rate(call, 10, 200)  # connect and load the script
                rates[name].append([await rate(call, callers, _fair(calls * share, callers)) for callers in CALLERS])
    return {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in rates.items()}


def _fair(calls: float, callers: int) -> int:
    """A lone caller waits for each reply: fewer calls do for the same accuracy."""
    return max(int(calls / (5 if callers == 1 else 1)), 2 * callers)


def table(rates: dict[str, list[float]]) -> str:
    """The rates as Markdown, with how many times as fast ours is."""
    lines = ["| callers | " + " | ".join(rates) + " |", "|---:|" + "---:|" * len(rates)]
    for column, callers in enumerate(CALLERS):
        first = rates["ours"][column]
        cells = [f"{row[column]:,.0f}/s ({first / row[column]:.1f}×)" for row in rates.values()]
        lines.append(f"| {callers} | {first:,.0f}/s | " + " | ".join(cells[1:]) + " |")
    return "\n".join(lines)


async def main(calls: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with EmbeddedRedis(directory) as embedded:
            print(table(await measure(embedded.url, calls, rounds)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=200_000, help="calls of ours for each row (others make fewer)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median counts")
    options = parser.parse_args()
    trio.run(main, options.calls, options.rounds)
