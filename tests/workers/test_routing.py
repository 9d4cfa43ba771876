"""Runs reach the worker that serves them, and only that one."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from harness import Server, eventually
from remote_workers import WorkerProcess
from workers.conftest import final, log_of, state_of, submit

Make = Callable[..., WorkerProcess]


def test_a_run_is_executed_by_a_remote_worker(front: Server, make_worker: Make) -> None:
    worker = make_worker(front, "--slots", "2").connected()
    with front.client() as client:
        run = final(client, submit(client, "for n in 1 2 3; do echo line $n; done; echo oops >&2; exit 3"))
        assert (run["state"], run["reason"], run["result"]["exit_code"]) == ("failed", "exit", 3)
        assert run["worker"] == worker.id
        assert sorted(log_of(client, run["id"]).splitlines()) == ["line 1", "line 2", "line 3", "oops"]


def test_runs_are_routed_by_queue_and_labels(front: Server, make_worker: Make) -> None:
    gpu = make_worker(front, "--label", "gpu=yes", "--queue", "default").connected()
    reports = make_worker(front, "--queue", "reports").connected()
    both = make_worker(front, "--label", "gpu=yes", "--queue", "reports").connected()
    with front.client() as client:
        wanted = {
            submit(client, "true", requires={"gpu": "yes"}): {gpu.id},
            submit(client, "true"): {gpu.id},
            submit(client, "true", queue="reports"): {reports.id, both.id},
            submit(client, "true", queue="reports", requires={"gpu": "yes"}): {both.id},
        }
        for run_id, workers in wanted.items():
            assert final(client, run_id)["worker"] in workers


def test_what_nobody_serves_waits_and_says_why(front: Server, make_worker: Make) -> None:
    make_worker(front, "--queue", "default").connected()
    with front.client() as client:
        cases = {"queue": "other", "requires": {"gpu": "yes"}}
        for option, value in cases.items():
            run_id = submit(client, "true", **{option: value})
            reasons = client.get(f"/runs/{run_id}/why").json()["reasons"]
            assert [one["code"] for one in reasons] == ["no_worker"]
            assert str(value if option == "queue" else "gpu=yes") in reasons[0]["detail"]
            assert state_of(client, run_id) == "queued"


def test_what_nobody_serves_starts_when_somebody_comes(front: Server, make_worker: Make) -> None:
    with front.client() as client:
        run_id = submit(client, "true", queue="later")
        make_worker(front, "--queue", "later")
        assert final(client, run_id)["state"] == "succeeded"


def test_a_failed_attempt_is_tried_again_by_the_runs_policy(front: Server, make_worker: Make) -> None:
    make_worker(front).connected()
    with front.client() as client:
        policy = {"max_attempts": 3, "backoff": {"kind": "fixed", "base": 0}, "on": ["exit"]}
        run = final(client, submit(client, "exit 4", retry=policy))
        assert [attempt["reason"] for attempt in run["attempts"]] == ["exit"] * 3


def test_a_running_run_is_cancelled_soon(front: Server, make_worker: Make) -> None:
    make_worker(front).connected()
    with front.client() as client:
        run_id = submit(client, "sleep 60")
        eventually(lambda: state_of(client, run_id) == "running")
        assert client.post(f"/runs/{run_id}/cancel").status_code == 202
        assert final(client, run_id, within_s=4)["state"] == "cancelled"


def test_a_worker_that_stops_lets_runs_finish_and_gives_back_the_rest(front: Server, make_worker: Make) -> None:
    worker = make_worker(front, "--drain-timeout", "2").connected()
    with front.client() as client:
        short, long = submit(client, "sleep 1; echo done"), submit(client, "sleep 60")
        for run_id in (short, long):
            eventually(lambda run_id=run_id: state_of(client, run_id) == "running")
        assert worker.end() == 0
        assert client.get(f"/runs/{short}").json()["state"] == "succeeded"
        released = client.get(f"/runs/{long}").json()
        assert (released["state"], released["reason"]) == ("queued", "released")
        assert client.get("/workers").json()["items"] == []


def test_a_second_signal_stops_a_worker_at_once(front: Server, make_worker: Make) -> None:
    worker = make_worker(front).connected()
    with front.client() as client:
        run_id = submit(client, "sleep 60")
        eventually(lambda: state_of(client, run_id) == "running")
    assert worker.process is not None
    worker.process.send_signal(signal.SIGINT)
    eventually(lambda: "a second signal" in worker.errors())
    assert worker.end(signal.SIGINT, within_s=5) == 0


@pytest.mark.parametrize("size", [200_000, 900_000])
def test_large_params_and_their_output_pass(front: Server, make_worker: Make, size: int) -> None:
    make_worker(front).connected()
    with front.client() as client:
        body = {"type": "shell", "params": {"argv": ["wc", "-c"], "stdin": "x" * size}}
        run_id = client.post("/runs", json=body).json()["id"]
        assert final(client, run_id)["state"] == "succeeded"
        assert log_of(client, run_id).strip() == str(size)
