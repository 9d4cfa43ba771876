"""What a server keeps, as its settings say: of a log both ends, of the runs that are over the newest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from harness import Server, eventually


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    return make_server(environment={"TASKMAN_LOG_LIMIT": "64KiB", "TASKMAN_KEEP_RUNS": "2"})


def submit(api: Any, command: str, **headers: str) -> Any:
    return api.post("/runs", json={"type": "shell", "params": {"command": command}}, headers=headers)


def test_a_long_log_says_what_is_missing_in_every_form(server: Server) -> None:
    with server.client() as api:
        run_id = submit(api, "seq 50000").json()["id"]
        api.get(f"/runs/{run_id}", params={"wait": "20"})
        text = api.get(f"/runs/{run_id}/log", headers={"Accept": "text/plain"}).text.splitlines()
        lines = api.get(f"/runs/{run_id}/log", headers={"Accept": "application/x-ndjson"}).text.splitlines()
        assert (text[0], text[-1], len(text)) == ("1", "50000", len(lines))
        assert [line for line in text if not line.isdigit()] == [line for line in text if "left out here" in line]
        assert sum('"missing"' in line for line in lines) == 1
        tail = api.get(f"/runs/{run_id}/log", params={"tail": "3"}, headers={"Accept": "text/plain"}).text
        assert tail == "49998\n49999\n50000\n"
    assert server.command("runs", "logs", run_id).stdout.splitlines()[-1] == "50000"


def test_what_is_too_big_is_refused(server: Server) -> None:
    with server.client() as api:
        task = {"name": "big", "type": "shell", "params": {"command": "true", "stdin": "x" * 2**20}}
        replies = [
            submit(api, "x" * 2**20),
            api.post("/runs", json={"type": "shell", "params": {"command": "true"}, "env": {"A": "x" * 2**16}}),
            api.post("/tasks", json=task),
        ]
        assert [reply.status_code for reply in replies] == [422] * 3
        assert [reply.json()["errors"][0]["pointer"] for reply in replies] == ["/params", "/env", "/params"]
        api.post("/tasks", json={**task, "params": {"command": "true"}})
        for params, env in (({"stdin": "x" * 2**20}, {}), ({}, {"A": "x" * 2**16})):
            refused = api.post("/tasks/big/runs", json={"params": params, "env": env})
            assert refused.json()["errors"][0]["pointer"] == ("/params" if params else "/env")


@pytest.mark.slow
def test_runs_beyond_the_number_are_forgotten_and_not_made_again(server: Server) -> None:
    with server.client() as api:
        key = {"Idempotency-Key": "once"}
        first = submit(api, "seq 5000", **key).json()["id"]
        for _ in range(3):
            last = submit(api, "true").json()["id"]
            api.get(f"/runs/{last}", params={"wait": "20"})
        eventually(lambda: api.get(f"/runs/{first}").status_code == 404, within_s=60)
        assert api.get(f"/runs/{last}").status_code == 200
        again = submit(api, "seq 5000", **key)
        assert (again.status_code, again.json()["code"]) == (409, "conflict")
        assert "not kept any more" in again.json()["detail"]
