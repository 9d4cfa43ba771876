"""`taskman worker` is killed and started again: what it ran goes on as the same attempt."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crash.scene import free_port
from harness import Server, eventually
from remote_workers import WorkerProcess
from runtime.trees import carrying, listens, parent, state
from workers.conftest import final, log_of, submit

from taskman.runtime.shim.hold import PATIENCE_S

NOTE = "the worker was restarted here; a moment of output may be missing"
COUNT = "i=0; while [ $i -lt 80 ]; do i=$((i+1)); echo line $i; sleep 0.03; done; echo attempt $TASKMAN_ATTEMPT"
WAIT = "while [ ! -e {0}/go ]; do sleep 0.05; done; echo attempt $TASKMAN_ATTEMPT"


def at_work(run_id: str) -> list[int]:
    return [pid for pid in carrying(run_id) if state(pid) != "X"]


def held(run_id: str) -> int:
    """Wait until a run's tree would outlive its worker; its shim."""

    def found() -> int | None:
        return next((shim for pid in at_work(run_id) if listens(shim := parent(pid))), None)

    return int(eventually(found, "the run is held"))


def check_log(text: str, count: int) -> None:
    """All lines in order, but for a moment's at the note."""
    lines = text.splitlines()
    where, wanted = lines.index(NOTE), [f"line {number}" for number in range(1, count + 1)] + ["attempt 1"]
    before, after = lines[:where], lines[where + 1 :]
    assert before == wanted[: len(before)]
    assert after == wanted[len(wanted) - len(after) :]
    assert len(wanted) - 10 <= len(before) + len(after) <= len(wanted)


def states(run: dict[str, Any]) -> list[str]:
    return [attempt["state"] for attempt in run["attempts"]]


def test_runs_go_on_when_their_worker_was_killed(front: Server, make_worker: Callable[..., WorkerProcess]) -> None:
    worker = make_worker(front)
    with front.client() as client:
        runs = [submit(client, COUNT) for _ in range(2)]
        for run_id in runs:
            held(run_id)
        worker.end(signal.SIGKILL)
        worker.start()
        for run_id in runs:
            run = final(client, run_id)
            assert (run["state"], states(run)) == ("succeeded", ["succeeded"])
            check_log(log_of(client, run_id), 80)


def test_a_run_goes_on_while_no_server_is_there(
    make_server: Callable[..., Server], make_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    """What the killed worker had spooled is counted, and goes first."""
    front = make_server("data", "--workers", "0", "--port", str(free_port()))
    worker = make_worker(front)
    with front.client() as client:
        run_id = submit(client, f"{COUNT}; {WAIT.format(tmp_path)}")
        held(run_id)
        eventually(lambda: "line 5\n" in log_of(client, run_id), "output comes")
    front.stop()
    eventually(worker.spooled, "output is spooled")
    worker.end(signal.SIGKILL)
    lost = worker.disconnections()
    worker.start()
    eventually(lambda: worker.disconnections() > lost, "the new worker finds no server")
    front.start()
    with front.client() as client:
        eventually(lambda: "line 80\n" in log_of(client, run_id), "all is delivered")
        (tmp_path / "go").touch()
        run = final(client, run_id)
        assert (run["state"], states(run)) == ("succeeded", ["succeeded"])
        check_log(log_of(client, run_id).removesuffix("attempt 1\n"), 80)


def test_a_run_that_went_on_can_be_cancelled(
    front: Server, make_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    worker = make_worker(front)
    with front.client() as client:
        run_id = submit(client, f"trap 'echo cleaned; exit' TERM; {WAIT.format(tmp_path)}")
        held(run_id)
        worker.end(signal.SIGKILL)
        worker.start()
        eventually(lambda: NOTE in log_of(client, run_id), "it goes on")
        client.post(f"/runs/{run_id}/cancel")
        run = final(client, run_id)
        assert (run["state"], states(run)) == ("cancelled", ["cancelled"])
        assert "cleaned" in log_of(client, run_id)


@pytest.mark.slow
def test_a_worker_that_comes_back_too_late_starts_again(
    front: Server, make_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    worker = make_worker(front)
    with front.client() as client:
        run_id = submit(client, WAIT.format(tmp_path))
        shim, killed_at = held(run_id), time.monotonic()
        worker.end(signal.SIGKILL)
        eventually(lambda: not at_work(run_id) and state(shim) in "ZX", "nothing is left", PATIENCE_S + 5)
        assert time.monotonic() - killed_at >= PATIENCE_S
        (tmp_path / "go").touch()
        worker.start()
        run = final(client, run_id)
        assert (run["state"], states(run)) == ("succeeded", ["lost", "succeeded"])
        assert log_of(client, run_id).endswith("attempt 2\n")


def test_a_drained_worker_leaves_nothing_for_the_next(
    front: Server, make_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    worker = make_worker(front, "--drain-timeout", "0.1")
    with front.client() as client:
        run_id = submit(client, WAIT.format(tmp_path))
        shim = held(run_id)
        assert worker.end() == 0
        assert state(shim) in "ZX"
        assert list((worker.directory / "journal").rglob("*.json")) == []
        (tmp_path / "go").touch()
        worker.start()
        assert states(final(client, run_id))[-1] == "succeeded"
