"""Runs of /bin/true per second: through the shims, beside the plainest loops Python has.

    python benchmarks/spawn.py [runs]

Prints the best of three rounds of each, all ways taking turns, and its ratio to the bare loop with as many at once.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import trio

from taskman.runtime.process import Processes, ProcessSpec

ARGV = ["/bin/true"]
ROUNDS = 3


def bare(runs: int, at_once: int) -> None:
    """A loop of subprocess.Popen().wait(), in as many threads."""
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda _: subprocess.Popen(ARGV).wait(), range(runs)))


def bare_captured(runs: int, at_once: int) -> None:
    """The same with what a run needs: its own session, and both outputs read."""
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda _: subprocess.run(ARGV, capture_output=True, start_new_session=True), range(runs)))


def trio_run_process(runs: int, at_once: int) -> None:
    """trio.run_process, nothing captured."""

    async def execute() -> None:
        await trio.run_process(ARGV)

    trio.run(in_turns, execute, runs, at_once)


def trio_captured(runs: int, at_once: int) -> None:
    """trio.run_process with both outputs captured."""

    async def execute() -> None:
        await trio.run_process(ARGV, capture_stdout=True, capture_stderr=True)

    trio.run(in_turns, execute, runs, at_once)


def processes(runs: int, at_once: int) -> None:
    """Processes.execute: session, both outputs streamed, the whole tree accounted for and gone."""
    trio.run(through_processes, runs, at_once)


async def in_turns(execute: Callable[[], Awaitable[object]], runs: int, at_once: int) -> None:
    """Call `execute` so many times, by so many tasks."""
    numbers = iter(range(runs))

    async def work() -> None:
        for _ in numbers:
            await execute()

    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(work)


async def through_processes(runs: int, at_once: int) -> None:
    """Start the pool, and run through it; its start and end are in the time."""
    pool, spec = Processes(), ProcessSpec(ARGV, None, {}, None, None, 5.0)

    async def output(stream: str, data: bytes) -> None:
        raise AssertionError("/bin/true does not write")

    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        await in_turns(lambda: pool.execute(spec, output), runs, at_once)
        nursery.cancel_scope.cancel()


WAYS = (bare, bare_captured, trio_run_process, trio_captured, processes)


def rate(way: Callable[[int, int], None], runs: int, at_once: int) -> tuple[float, float]:
    """Runs per second, and this process's own processor time for each, in microseconds."""
    wall_s, own_s = time.perf_counter(), time.process_time()
    way(runs, at_once)
    return runs / (time.perf_counter() - wall_s), (time.process_time() - own_s) / runs * 1e6


def main() -> None:
    """Measure and print."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
    for at_once in (1, 8):
        rounds = [[rate(way, runs, at_once) for way in WAYS] for _ in range(ROUNDS)]
        best = [max(results) for results in zip(*rounds, strict=True)]
        for way, (per_second, own_us) in zip(WAYS, best, strict=True):
            ratio = per_second / best[0][0]
            print(f"{at_once} at once  {way.__name__:17} {per_second:6.0f}/s  {ratio:4.2f} x  own {own_us:4.0f} us")


if __name__ == "__main__":
    main()
