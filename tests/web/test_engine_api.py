"""The engine through the API: retries, limits, idempotency, overlap, queues, why, bulk."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from harness import Server, eventually


@pytest.fixture
def api(server: Server) -> Iterator[httpx2.Client]:
    with server.client() as client:
        yield client


def submit(api: httpx2.Client, command: str, **options: Any) -> dict[str, Any]:
    reply = api.post("/runs", json={"type": "shell", "params": {"command": command}, **options})
    assert reply.status_code == 201, reply.text
    made: dict[str, Any] = reply.json()
    return made


def wait(api: httpx2.Client, run_id: str) -> dict[str, Any]:
    ended: dict[str, Any] = api.get(f"/runs/{run_id}?wait=20").json()
    assert ended["finished_at"], ended
    return ended


def states(run: dict[str, Any]) -> list[str]:
    return [entry["state"] for entry in run["history"]]


def test_a_failed_attempt_is_tried_again_until_it_succeeds(api: httpx2.Client, tmp_path: Path) -> None:
    marker = tmp_path / "tries"
    command = f"echo x >> {marker}; exit $((3 - $(wc -l < {marker})))"
    retry = {"max_attempts": 5, "backoff": {"kind": "fixed", "base": "100ms"}}
    run = wait(api, submit(api, command, retry=retry)["id"])
    assert (run["state"], run["attempt"], run["max_attempts"]) == ("succeeded", 3, 5)
    assert [one["state"] for one in run["attempts"]] == ["failed", "failed", "succeeded"]
    assert [one["result"]["exit_code"] for one in run["attempts"]] == [2, 1, 0]
    assert states(run) == ["queued", *["running", "scheduled", "queued"] * 2, "running", "succeeded"]


def test_the_last_attempt_fails_the_run(api: httpx2.Client) -> None:
    retry = {"max_attempts": 2, "backoff": {"kind": "list", "delays": ["50ms"]}}
    run = wait(api, submit(api, "exit 7", retry=retry)["id"])
    assert (run["state"], run["reason"], run["attempt"]) == ("failed", "exit", 2)


def test_only_reasons_of_the_policy_are_retried(api: httpx2.Client) -> None:
    retry = {"max_attempts": 3, "on": ["timeout"]}
    assert wait(api, submit(api, "exit 7", retry=retry)["id"])["attempt"] == 1


@pytest.mark.parametrize(
    ("options", "reason", "attempt_state"),
    [
        ({"timeout": 0.3}, "timeout", "timed_out"),
        ({"idle_timeout": 0.5}, "idle_timeout", "timed_out"),
        ({"deadline": 0.5}, "deadline", "timed_out"),
    ],
)
def test_each_time_limit_ends_a_run_with_its_own_reason(
    api: httpx2.Client, options: dict[str, float], reason: str, attempt_state: str
) -> None:
    run = wait(api, submit(api, "exec sleep 1000", **options)["id"])
    assert (run["state"], run["reason"]) == ("failed", reason)
    assert run["attempts"][0]["state"] == attempt_state


def test_output_is_a_sign_of_life(api: httpx2.Client) -> None:
    run = submit(api, "for i in 1 2 3 4 5; do echo $i; sleep 0.4; done", idle_timeout=1.5)
    assert wait(api, run["id"])["state"] == "succeeded"


def test_a_run_that_waits_too_long_expires(api: httpx2.Client) -> None:
    run = submit(api, "true", queue="nobody", requires={"gpu": "yes"}, start_deadline=0.5)
    why = api.get(f"/runs/{run['id']}/why").json()
    assert why["state"] == "queued"
    assert [one["code"] for one in why["reasons"]] == ["no_worker"]
    assert "gpu=yes" in why["reasons"][0]["detail"]
    ended = wait(api, run["id"])
    assert (ended["state"], ended["reason"], ended["attempt"]) == ("failed", "expired", 0)


def test_an_idempotency_key_makes_one_run(api: httpx2.Client) -> None:
    body = {"type": "shell", "params": {"command": "true"}}
    first = api.post("/runs", json=body, headers={"Idempotency-Key": "k1"})
    again = api.post("/runs", json=body, headers={"Idempotency-Key": "k1"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json()["id"] == first.json()["id"]
    other = {"type": "shell", "params": {"command": "false"}}
    refused = api.post("/runs", json=other, headers={"Idempotency-Key": "k1"})
    assert refused.status_code == 422
    assert "another body" in refused.json()["detail"]
    assert len(api.get("/runs").json()["items"]) == 1


def test_a_unique_run_is_refused_or_returned_while_another_is_active(api: httpx2.Client) -> None:
    unique = {"key": "{{ params.env.CUSTOMER }}"}

    def body(conflict: str, customer: str) -> dict[str, Any]:
        params = {"command": "exec sleep 1000", "env": {"CUSTOMER": customer}}
        return {"type": "shell", "params": params, "unique": {**unique, "on_conflict": conflict}}

    first = api.post("/runs", json=body("reject", "a")).json()
    assert api.post("/runs", json=body("reject", "a")).status_code == 409
    returned = api.post("/runs", json=body("return", "a"))
    assert (returned.status_code, returned.json()["id"]) == (200, first["id"])
    assert api.post("/runs", json=body("reject", "b")).status_code == 201
    api.post(f"/runs/{first['id']}/cancel")
    wait(api, first["id"])
    assert api.post("/runs", json=body("reject", "a")).status_code == 201
    missing = {"type": "shell", "params": {"command": "true"}, "unique": {"key": "{{ params.nothing }}"}}
    assert api.post("/runs", json=missing).json()["errors"][0]["pointer"] == "/unique/key"


def save(api: httpx2.Client, name: str, command: str, **options: Any) -> None:
    body = {"name": name, "type": "shell", "params": {"command": command}, **options}
    reply = api.put(f"/tasks/{name}", json=body)
    assert reply.status_code == 201, reply.text


def test_runs_of_a_task_wait_for_each_other_unless_they_may_overlap(api: httpx2.Client) -> None:
    save(api, "one", "sleep 0.5")
    first, second = (api.post("/tasks/one/runs").json() for _ in range(2))
    blocked = eventually(lambda: _in_state(api, second["id"], "blocked"))
    reasons = api.get(f"/runs/{second['id']}/why").json()["reasons"]
    assert [one["code"] for one in reasons] == ["limit"]
    assert "task 'one'" in reasons[0]["detail"]
    assert blocked["reason"] == "limit"
    assert wait(api, second["id"])["started_at"] >= wait(api, first["id"])["finished_at"]
    save(api, "many", "sleep 0.5", overlap="allow")
    pair = [api.post("/tasks/many/runs").json()["id"] for _ in range(2)]
    assert wait(api, pair[1])["started_at"] < wait(api, pair[0])["finished_at"]


def _in_state(api: httpx2.Client, run_id: str, state: str) -> dict[str, Any] | None:
    run: dict[str, Any] = api.get(f"/runs/{run_id}").json()
    return run if run["state"] == state else None


def test_a_newer_run_replaces_and_a_skipping_one_is_skipped(api: httpx2.Client) -> None:
    save(api, "newest", "exec sleep 1000", overlap="replace")
    first = api.post("/tasks/newest/runs").json()
    eventually(lambda: _in_state(api, first["id"], "running"))
    second = api.post("/tasks/newest/runs").json()
    assert wait(api, first["id"])["state"] == "cancelled"
    eventually(lambda: _in_state(api, second["id"], "running"))
    api.post(f"/runs/{second['id']}/cancel")
    save(api, "single", "exec sleep 1000", overlap="skip")
    running = api.post("/tasks/single/runs").json()
    skipped = api.post("/tasks/single/runs").json()
    assert (skipped["state"], skipped["reason"]) == ("skipped", "overlap")
    api.post(f"/runs/{running['id']}/cancel")


def test_a_limit_is_shared_between_tasks_and_keys_have_room_of_their_own(api: httpx2.Client) -> None:
    for name in ("a", "b"):
        save(api, name, "sleep 0.4", limits={"db": 1}, overlap="allow")
    ids = [api.post(f"/tasks/{name}/runs").json()["id"] for name in ("a", "b", "a", "b")]
    spans = sorted((run["started_at"], run["finished_at"]) for run in (wait(api, one) for one in ids))
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(spans))
    save(api, "keyed", "sleep 0.4", max_concurrency=1, concurrency_key="{{ params.env.WHO }}")
    bodies = [{"params": {"env": {"WHO": who}}} for who in ("x", "y", "x")]
    runs = [wait(api, api.post("/tasks/keyed/runs", json=body).json()["id"]) for body in bodies[:2]]
    assert all(run["state"] == "succeeded" for run in runs)


def test_a_paused_queue_starts_nothing_until_it_is_resumed(api: httpx2.Client) -> None:
    wait(api, submit(api, "true", queue="slow")["id"])
    assert api.post("/queues/slow/pause").json()["paused"] is True
    run = submit(api, "true", queue="slow")
    reasons = api.get(f"/runs/{run['id']}/why").json()["reasons"]
    assert [one["code"] for one in reasons] == ["paused"]
    wait(api, submit(api, "true")["id"])
    listed = {one["name"]: one for one in api.get("/queues").json()["items"]}
    assert (listed["slow"]["depth"], listed["slow"]["oldest"], listed["slow"]["paused"]) == (1, run["id"], True)
    api.post("/queues/slow/resume")
    assert wait(api, run["id"])["state"] == "succeeded"
    assert api.post("/queues/nowhere/pause").status_code == 404


def test_the_worker_is_listed_with_its_slots(api: httpx2.Client) -> None:
    worker = eventually(lambda: api.get("/workers").json()["items"])[0]
    assert "shell" in worker["types"]
    assert worker["slots"] >= 4


def test_many_runs_are_created_in_one_request(api: httpx2.Client) -> None:
    good, bad = {"type": "shell", "params": {"command": "true"}}, {"type": "shel"}
    items = api.post("/runs/bulk", json={"runs": [good, bad, good]}).json()["items"]
    assert [set(item) for item in items] == [{"id"}, {"errors"}, {"id"}]
    assert items[1]["errors"][0]["pointer"] == "/type"
    assert wait(api, items[2]["id"])["state"] == "succeeded"
    lines = "\n".join([json.dumps(good)] * 1000)
    reply = api.post("/runs/bulk", content=lines, headers={"Content-Type": "application/x-ndjson"})
    assert len({item["id"] for item in reply.json()["items"]}) == 1000
    too_many = api.post("/runs/bulk", json={"runs": [good] * 10_001})
    assert "at most 10,000" in too_many.json()["errors"][0]["detail"]
    assert api.post("/runs/bulk", json=[good]).status_code == 422


def test_many_runs_with_a_key_are_created_once(api: httpx2.Client) -> None:
    bodies = [{"type": "shell", "params": {"command": "true"}} for _ in range(600)]
    bodies[3] = {"type": "shel"}

    def create(key: str, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = api.post(
            "/runs/bulk", json={"runs": runs}, headers={"Idempotency-Key": key}
        ).json()["items"]
        return items

    first = create("a", bodies)
    assert create("a", bodies) == first
    assert len({one["id"] for one in first if "id" in one}) == 599
    assert not {one.get("id") for one in create("b", bodies)} & {one["id"] for one in first if "id" in one}
    assert "another body" in create("a", bodies[:5])[0]["errors"][0]["detail"]


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"retry": {"max_attempts": 0}}, "/retry/max_attempts"),
        ({"retry": {"on": ["sunday"]}}, "/retry/on"),
        ({"retry": {"backoff": {"kind": "list"}}}, "/retry/backoff"),
        ({"retry": {"backoff": {"base": "x"}}}, "/retry/backoff/base"),
        ({"on_lost": "panic"}, "/on_lost"),
        ({"lost_grace": "2d"}, "/lost_grace"),
        ({"unique": {"while": "often"}}, "/unique/while"),
        ({"requires": {"a b": "c"}}, "/requires"),
        ({"overlap": "skip"}, "/overlap"),
    ],
)
def test_bad_options_are_named(api: httpx2.Client, options: dict[str, Any], pointer: str) -> None:
    reply = api.post("/runs", json={"type": "shell", "params": {"command": "true"}, **options})
    assert reply.status_code == 422
    assert pointer in [fault["pointer"] for fault in reply.json()["errors"]]


def test_a_forced_cancel_needs_no_grace(api: httpx2.Client) -> None:
    run = submit(api, "trap '' TERM; echo begun; while :; do sleep 0.1; done", grace="60s")
    eventually(lambda: api.get(f"/runs/{run['id']}/log").text == "begun\n")
    assert api.post(f"/runs/{run['id']}/cancel").json()["state"] == "cancelling"
    assert api.get(f"/runs/{run['id']}?wait=1").json()["state"] == "cancelling", "the trap holds it up"
    assert api.post(f"/runs/{run['id']}/cancel", json={"force": True}).status_code == 202
    assert wait(api, run["id"])["state"] == "cancelled"
    assert api.post(f"/runs/{run['id']}/cancel", json={"forse": True}).status_code == 422


def test_a_full_queue_refuses_more_until_there_is_room(make_server: Callable[..., Server]) -> None:
    server = make_server(environment={"TASKMAN_QUEUE_LIMIT": "3", "TASKMAN_WORKERS": "0"})
    body = {"type": "shell", "params": {"command": "true"}}
    with server.client() as api:
        ids = [api.post("/runs", json=body).json()["id"] for _ in range(3)]
        refused = api.post("/runs", json=body)
        assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
        assert refused.headers["Retry-After"]
        assert api.post("/runs", json={**body, "queue": "other"}).status_code == 201
        items = api.post("/runs/bulk", json={"runs": [body]}).json()["items"]
        assert items[0]["errors"][0]["pointer"] == "/queue"
        api.post(f"/runs/{ids[0]}/cancel")
        assert api.post("/runs", json=body).status_code == 201
