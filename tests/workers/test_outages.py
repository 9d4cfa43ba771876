"""Runs on remote workers while the network, the server or the worker fails: none starts again, no line is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from chaos import ChaosProxy
from crash.scene import free_port
from harness import Server, eventually
from remote_workers import WorkerProcess
from workers.conftest import final, log_of, state_of, submit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

Make = Callable[..., WorkerProcess]
# A line each twentieth of a second, so there is always one under way.
COUNTING = "i=0; while [ $i -lt {0} ]; do echo line $i; i=$((i+1)); sleep 0.05; done"
FAULTS: dict[str, Callable[[ChaosProxy], None]] = {
    "cut": ChaosProxy.cut,
    "frozen": ChaosProxy.freeze,
    "one way up": lambda proxy: proxy.freeze("down"),
    "one way down": lambda proxy: proxy.freeze("up"),
}
LONG = "TASKMAN_TEST_OUTAGES" in os.environ  # all of them, for minutes: `tox -e outages`
OUTAGES = [(fault, outage_s) for outage_s in (3.0, 15.0, 60.0) for fault in FAULTS]
SHORT = [one for one in OUTAGES if one[1] == 3.0 or one == ("frozen", 15.0)]
ENDS = [signal.SIGTERM, signal.SIGKILL]


@pytest.fixture
def proxy(front: Server) -> Iterator[ChaosProxy]:
    with ChaosProxy(front.url) as proxy:
        yield proxy


def count(client: httpx2.Client, lines: int, **options: Any) -> str:
    run_id = submit(client, COUNTING.format(lines), **options)
    eventually(lambda: "line 3" in log_of(client, run_id), f"{run_id} prints")
    return run_id


def whole(client: httpx2.Client, run_id: str, lines: int) -> None:
    """The run was executed once, and its log is exact."""
    run = final(client, run_id, 60)
    assert (run["state"], run["attempt"]) == ("succeeded", 1), run
    assert log_of(client, run_id) == "".join(f"line {number}\n" for number in range(lines))


@contextmanager
def stretched(client: httpx2.Client, outage_s: float) -> Iterator[None]:
    """Runs that last well beyond the block, and how they must end. `lost_grace` spans the longest outage."""
    lines = int((outage_s + 6) * 20)
    during = int(max(outage_s - 2, 1) * 20)
    runs = {count(client, number, lost_grace="2m"): number for number in (lines, lines, during)}
    yield
    for run_id, number in runs.items():
        whole(client, run_id, number)


@pytest.mark.parametrize(("fault", "outage_s"), OUTAGES if LONG else SHORT)
def test_an_outage_restarts_nothing_and_loses_no_line(
    front: Server, make_worker: Make, proxy: ChaosProxy, fault: str, outage_s: float
) -> None:
    make_worker(front, url=proxy.url).connected()
    with front.client() as client, stretched(client, outage_s):
        FAULTS[fault](proxy)
        time.sleep(outage_s)
        proxy.heal()


def test_a_connection_that_is_dead_without_a_word_is_replaced(
    front: Server, make_worker: Make, proxy: ChaosProxy
) -> None:
    worker = make_worker(front, url=proxy.url).connected()
    with front.client() as client, stretched(client, 18):
        proxy.strand()
        worker.connected(times=2)
        assert "no answer for" in worker.errors()


def test_many_resets_under_load_execute_nothing_twice(
    front: Server, make_worker: Make, proxy: ChaosProxy, tmp_path: Path
) -> None:
    worker = make_worker(front, "--slots", "6", url=proxy.url).connected()
    trace = tmp_path / "trace"
    with front.client() as client:
        runs = [submit(client, f"echo $TASKMAN_RUN_ID >> {trace}; sleep 0.2; echo done") for _ in range(120)]
        for times in range(8):
            proxy.reset()
            worker.connected(times=2 + times)
        for run_id in runs:
            run = final(client, run_id, 60)
            assert run["state"] == "succeeded", run
            assert {attempt["state"] for attempt in run["attempts"]} <= {"succeeded", "released"}
            assert log_of(client, run_id) == "done\n"
    assert sorted(trace.read_text().split()) == sorted(runs)


def test_a_slow_link_slows_the_output_and_keeps_the_lease(front: Server, make_worker: Make, proxy: ChaosProxy) -> None:
    make_worker(front, url=proxy.url).connected()
    proxy.slow(100_000)
    with front.client() as client:
        started = time.monotonic()
        run_id = submit(client, "i=0; while [ $i -lt 20000 ]; do echo line number $i of many more; i=$((i+1)); done")
        run = final(client, run_id, 60)
        assert (run["state"], run["attempt"]) == ("succeeded", 1)
        assert log_of(client, run_id).count("\n") == 20_000
        assert time.monotonic() - started > 4


@pytest.mark.parametrize(("how", "redis"), [(ENDS[0], "somebody else's"), (ENDS[1], "its own")])
def test_a_server_restart_restarts_no_attempt(
    make_server: Callable[..., Server],
    make_worker: Make,
    start_redis: Callable[..., tuple[str, Any]],
    how: signal.Signals,
    redis: str,
) -> None:
    environment = {} if redis == "its own" else {"TASKMAN_REDIS_URL": start_redis("--appendonly", "yes")[0]}
    server = make_server("data", "--workers", "0", "--port", str(free_port()), environment=environment)
    worker = make_worker(server).connected()
    with server.client() as client:
        ends_meanwhile, goes_on = count(client, 60), count(client, 300)
    if how == signal.SIGTERM:
        assert server.stop() == 0
    else:
        server.kill_tree()
    eventually(lambda: [path for path in worker.spooled() if path.stat().st_size], "output is spooled")
    time.sleep(4)
    server.start()
    worker.connected(times=2)
    with server.client() as client:
        whole(client, ends_meanwhile, 60)
        whole(client, goes_on, 300)
        eventually(lambda: worker.spooled() == [], "the spool is empty")


@pytest.mark.parametrize("how", ENDS if LONG else ENDS[1:])
def test_a_server_restart_under_a_hundred_attempts_restarts_none(
    make_server: Callable[..., Server], make_worker: Make, how: signal.Signals
) -> None:
    server = make_server("data", "--workers", "0", "--port", str(free_port()))
    workers = [make_worker(server, "--slots", "50").connected() for _ in range(2)]
    slowly = "i=0; while [ $i -lt {0} ]; do echo line $i; i=$((i+1)); sleep 1; done"
    lines = [5 + number % 20 for number in range(100)]  # some end while no server is there
    with server.client() as client:
        runs = [submit(client, slowly.format(number), lost_grace="2m") for number in lines]
        eventually(lambda: all(state_of(client, run_id) != "queued" for run_id in runs), "all run", 30)
    if how == signal.SIGTERM:
        assert server.stop() == 0
    else:
        server.kill_tree()
    time.sleep(5)
    server.start()
    for worker in workers:
        worker.connected(times=2)
    with server.client() as client:
        for run_id, number in zip(runs, lines, strict=True):
            whole(client, run_id, number)


def test_results_outlive_the_worker_that_could_not_deliver_them(
    front: Server, make_worker: Make, proxy: ChaosProxy
) -> None:
    worker = make_worker(front, url=proxy.url).connected()
    with front.client() as client:
        run_id, cut_short = count(client, 40), submit(client, "echo begun; sleep 60")
        eventually(lambda: state_of(client, cut_short) == "running")
        proxy.cut()
        eventually(lambda: any(_ended(path) for path in worker.spooled()))
        worker.kill_tree()
        proxy.heal()
        worker.start()
        whole(client, run_id, 40)
        eventually(lambda: client.get(f"/runs/{cut_short}").json()["attempt"] == 2, "what did not end starts again")
        assert client.get(f"/runs/{cut_short}").json()["attempts"][0]["state"] == "lost"


def _ended(path: Path) -> bool:
    return b"succeeded" in path.read_bytes()


def test_a_worker_restarted_after_kill_starts_its_runs_again_at_once(front: Server, make_worker: Make) -> None:
    worker = make_worker(front).connected()
    with front.client() as client:
        run_id = submit(client, "sleep 60")
        eventually(lambda: state_of(client, run_id) == "running")
        worker.kill_tree()
        worker.start()
        began = time.monotonic()
        eventually(lambda: client.get(f"/runs/{run_id}").json()["attempt"] == 2)
        assert time.monotonic() - began < 10
        assert client.get(f"/runs/{run_id}").json()["attempts"][0]["state"] == "lost"
