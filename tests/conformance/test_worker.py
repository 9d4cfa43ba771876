"""A worker in a hundred lines of plain Python, against a server: the protocol suffices."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos import ChaosProxy
from conformance.conftest import Target
from harness import eventually

PROGRAM = Path(__file__).parent / "plain_worker.py"
FINAL = ("succeeded", "failed", "cancelled")


@pytest.fixture
def proxy(target: Target) -> Iterator[ChaosProxy]:
    with ChaosProxy(target.url) as proxy:
        yield proxy


@pytest.fixture
def worker(target: Target, proxy: ChaosProxy) -> Iterator[str]:
    """The id of a plain worker that is connected, by way of the proxy."""
    worker_id = f"plain-{secrets.token_hex(4)}"
    command = [sys.executable, str(PROGRAM), proxy.url, target.token, worker_id, "4"]
    with subprocess.Popen(command) as process:
        with target.client() as client:
            eventually(lambda: client.get(f"/workers/{worker_id}").status_code == 200)
        yield worker_id
        process.kill()


def submit(target: Target, command: str, **options: Any) -> str:
    target.queue = "default"
    return target.submit(command, requires={"plain": "yes"}, **options)


def final(target: Target, run_id: str) -> dict[str, Any]:
    eventually(lambda: target.run(run_id)["state"] in FINAL, f"{run_id} ends")
    return target.run(run_id)


def test_it_executes_runs_and_sends_their_output(target: Target, worker: str) -> None:
    runs = {submit(target, f"echo hello {number}; exit {number}"): number for number in range(6)}
    for run_id, number in runs.items():
        run = final(target, run_id)
        assert run["worker"] == worker
        assert (run["state"], run["result"]) == ("failed" if number else "succeeded", {"exit_code": number})
        assert target.log(run_id) == f"hello {number}\n"


def test_it_obeys_a_cancel(target: Target, worker: str) -> None:
    run_id = submit(target, "exec sleep 60")
    eventually(lambda: target.run(run_id)["state"] == "running")
    target.post(f"/runs/{run_id}/cancel")
    assert final(target, run_id)["state"] == "cancelled"


def test_it_survives_an_outage(target: Target, worker: str, proxy: ChaosProxy) -> None:
    run_id = submit(target, "for n in 1 2 3 4 5 6 7 8; do echo $n; sleep 0.5; done")
    eventually(lambda: "2" in target.log(run_id))
    proxy.cut()
    eventually(lambda: not proxy._passages)
    proxy.heal()
    run = final(target, run_id)
    assert (run["state"], run["attempt"]) == ("succeeded", 1)
    assert target.log(run_id).split() == list("12345678")
