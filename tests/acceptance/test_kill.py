"""What is left after the power switch: nothing acknowledged is lost, nothing is finished twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from harness import Server, eventually
from runtime.trees import carrying, listens, parent

from taskman.runtime.shim.hold import PATIENCE_S


def submit(client: httpx2.Client, command: str) -> str:
    reply = client.post("/runs", json={"type": "shell", "params": {"command": command}})
    assert reply.status_code == 201, reply.text
    return str(reply.json()["id"])


def all_runs(client: httpx2.Client) -> dict[str, dict[str, Any]]:
    items = client.get("/runs", params={"limit": 1000}).json()["items"]
    return {item["id"]: item for item in items}


@pytest.mark.slow
def test_every_acknowledged_run_ends_once_after_a_power_cut(make_server: Callable[..., Server], tmp_path: Path) -> None:
    server = make_server()
    trace = tmp_path / "trace"
    command = f'echo "$TASKMAN_RUN_ID $TASKMAN_ATTEMPT" >> {trace}; sleep 0.05'
    task = {"name": "tick", "type": "shell", "params": {"command": "true"}, "schedules": [{"every": "1s"}]}
    with server.client() as client:
        assert client.post("/tasks", json=task).status_code == 201
        acknowledged = [submit(client, command) for _ in range(200)]
        ended = [one for one in all_runs(client).values() if one["finished_at"]]
        assert len(ended) < 200, "the power cut must come in the middle"
    server.kill_tree()
    server.start()
    with server.client() as client:

        def ended_all() -> dict[str, dict[str, Any]] | None:
            runs = all_runs(client)
            return runs if all(runs[one]["finished_at"] for one in acknowledged) else None

        runs = eventually(ended_all, "all acknowledged runs end", 60)
        assert {runs[one]["state"] for one in acknowledged} == {"succeeded"}
        for one in acknowledged:
            history = client.get(f"/runs/{one}").json()["history"]
            assert [entry["state"] for entry in history].count("succeeded") == 1
        since = time.time()
        eventually(lambda: _fired_after(client, since), "the schedule goes on")
    starts = Counter(trace.read_text().split("\n")[:-1])
    assert max(starts.values()) == 1, "an attempt was executed twice"
    assert {line.split()[0] for line in starts} == set(acknowledged)


def _fired_after(client: httpx2.Client, since: float) -> bool:
    items = client.get("/runs", params={"task": "tick", "state": "succeeded", "limit": 1}).json()["items"]
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since))
    return bool(items) and str(items[0]["fire_time"]) > stamp


def test_a_fresh_process_does_not_outlive_a_killed_server(make_server: Callable[..., Server]) -> None:
    server = make_server()
    with server.client() as client:
        submit(client, "exec sleep 4711.25")
        eventually(lambda: _sleepers("4711.25"), "the run's process is there")
    assert server.process is not None
    server.process.kill()
    eventually(lambda: not _sleepers("4711.25"), "the run's process is gone")


@pytest.mark.slow
def test_no_process_outlives_a_killed_server_for_long(make_server: Callable[..., Server]) -> None:
    server = make_server()
    with server.client() as client:
        submit(client, "exec sleep 4712.25")
        eventually(lambda: any(listens(parent(pid)) for pid in _sleepers("4712.25")), "the run is held")
    assert server.process is not None
    server.process.kill()
    server.reap()
    assert _sleepers("4712.25")
    eventually(lambda: not _sleepers("4712.25"), "the run's process is gone", PATIENCE_S + 5)


def test_a_run_goes_on_when_a_killed_server_is_back(make_server: Callable[..., Server], tmp_path: Path) -> None:
    server = make_server()
    command = f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo attempt $TASKMAN_ATTEMPT"
    with server.client() as client:
        run_id = submit(client, f"sh -c '{command}'")
        eventually(lambda: any(listens(parent(pid)) for pid in carrying(run_id)), "the run is held")
    assert server.process is not None
    server.process.kill()
    server.reap()
    server.start()
    (tmp_path / "go").touch()
    with server.client() as client:
        run = eventually(lambda: _ended(client, run_id), "the run ends")
        assert [(one["state"], one["number"]) for one in run["attempts"]] == [("succeeded", 1)]
        log = client.get(f"/runs/{run_id}/log").text.splitlines()
    assert log == ["the worker was restarted here; a moment of output may be missing", "attempt 1"]


def _ended(client: httpx2.Client, run_id: str) -> dict[str, Any] | None:
    run: dict[str, Any] = client.get(f"/runs/{run_id}").json()
    return run if run["finished_at"] else None


def _sleepers(argument: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if words[:2] == [b"sleep", argument.encode()]:
            found.append(int(entry.name))
    return found
