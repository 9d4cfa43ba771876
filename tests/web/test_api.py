"""The API of a real server: what it takes, what it refuses and how, what it streams."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from harness import Server, eventually


@pytest.fixture
def api(server: Server) -> Iterator[httpx2.Client]:
    with server.client() as client:
        yield client


def run_shell(api: httpx2.Client, command: str, **options: Any) -> dict[str, Any]:
    reply = api.post("/runs", json={"type": "shell", "params": {"command": command}, **options})
    assert reply.status_code == 201, reply.text
    assert reply.headers["Location"] == f"/api/v1/runs/{reply.json()['id']}"
    created: dict[str, Any] = reply.json()
    return created


def wait(api: httpx2.Client, run_id: str) -> dict[str, Any]:
    ended: dict[str, Any] = api.get(f"/runs/{run_id}", params={"wait": "20"}).json()
    assert ended["finished_at"], ended
    return ended


def test_a_run_from_submit_to_result(api: httpx2.Client) -> None:
    created = run_shell(api, "echo hello; exit 3", priority=2, queue="q", timeout="1m", env={"A": "b"})
    assert (created["state"], created["trigger"], created["attempt"]) == ("queued", "api", 0)
    ended = wait(api, created["id"])
    assert (ended["state"], ended["reason"], ended["result"]["exit_code"]) == ("failed", "exit", 3)
    assert [entry["state"] for entry in ended["history"]] == ["queued", "running", "failed"]
    assert ended["attempts"][0]["state"] == "failed"
    assert ended["history"][0]["by"] == "token:local"


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ({}, {"/type": "'type' is required"}),
        ({"type": "shel"}, {"/type": "did you mean 'shell'"}),
        ({"type": "shell"}, {"/params": "exactly one of 'command' and 'argv'"}),
        ({"type": "shell", "params": {"comand": "x"}}, {"/params/comand": "did you mean 'command'"}),
        ({"type": "shell", "params": {"argv": "ls"}}, {"/params/argv": "list"}),
        ({"type": "shell", "params": 7}, {"/params": "dictionary"}),
        (
            {"type": "shell", "params": {"command": "x"}, "timeout": "soon", "priority": 1000, "prio": 1},
            {"/timeout": "no duration", "/priority": "100", "/prio": "did you mean 'priority'"},
        ),
        ({"type": "shell", "params": {"command": "x"}, "env": {"TASKMAN_X": "1"}}, {"/env": "set by Taskman itself"}),
        ({"type": "shell", "params": {"command": "x"}, "at": "2027-01-01"}, {"/at": "offset"}),
        ({"type": "shell", "params": {"command": "x"}, "queue": "a b"}, {"/queue": "cannot be a name"}),
        ({"task": "nowhere"}, {"/task": "no task 'nowhere'"}),
        ([], {"": "JSON object"}),
    ],
)
def test_a_bad_run_is_refused_with_every_fault_at_once(api: httpx2.Client, body: Any, faults: dict[str, str]) -> None:
    reply = api.post("/runs", json=body)
    assert reply.status_code == 422
    assert reply.headers["Content-Type"] == "application/problem+json"
    problem = reply.json()
    assert problem["code"] == "invalid_input"
    assert problem["request_id"] == reply.headers["X-Request-Id"]
    found = {fault["pointer"]: fault["detail"] for fault in problem["errors"]}
    assert found.keys() == faults.keys()
    for pointer, part in faults.items():
        assert part in found[pointer]
    assert api.get("/runs").json()["items"] == []


@pytest.mark.parametrize(
    ("content", "kind", "status", "detail"),
    [
        (b"{'type': 1}", "application/json", 400, "line 1 column 2"),
        (b'{"type": "shell", "params": {"n": NaN}}', "application/json", 400, "line 1 column 35"),
        (b'{"type": "half a character \\ud800"}', "application/json", 400, "hex escape"),
        (b"[" * 100_000, "application/json", 400, "recursion"),
        (b"\xff", "application/json", 400, "UTF-8"),
        (b"{}", "text/plain", 415, "Content-Type: application/json"),
        (b"", "application/json", 400, "no JSON"),
        (b'{"a":"' + b"x" * 17_000_000 + b'"}', "application/json", 413, ""),
    ],
)
def test_a_body_that_is_no_json_is_refused(
    api: httpx2.Client, content: bytes, kind: str, status: int, detail: str
) -> None:
    reply = api.post("/runs", content=content, headers={"Content-Type": kind})
    assert reply.status_code == status
    assert detail in reply.json()["detail"]


def test_addresses_and_methods_that_do_not_exist_are_problems(api: httpx2.Client) -> None:
    for method, path, status in (("GET", "/nowhere", 404), ("PATCH", "/runs", 405), ("GET", "/runs/../x", 404)):
        reply = api.request(method, path)
        assert (reply.status_code, reply.headers["Content-Type"]) == (status, "application/problem+json")
    assert api.get("/runs/r0-" + "0" * 23).status_code == 404
    assert api.get("/runs", params={"stat": "queued"}).json()["errors"][0]["detail"].endswith("did you mean 'state'?")
    assert api.get("/runs", params={"state": "runing"}).json()["errors"][0]["pointer"] == "?state"
    assert api.get("/runs", params={"limit": "0"}).status_code == 422


def test_a_delayed_run_starts_when_due_not_before(api: httpx2.Client) -> None:
    created = run_shell(api, "true", delay="1s")
    assert created["state"] == "scheduled"
    ended = wait(api, created["id"])
    assert ended["started_at"] >= created["due_at"]
    assert [entry["state"] for entry in ended["history"]] == ["scheduled", "queued", "running", "succeeded"]


def test_cancelling_a_final_run_is_a_conflict(api: httpx2.Client) -> None:
    run_id = run_shell(api, "true")["id"]
    wait(api, run_id)
    reply = api.post(f"/runs/{run_id}/cancel")
    assert (reply.status_code, reply.json()["code"]) == (409, "conflict")


def test_runs_are_listed_newest_first_in_pages(api: httpx2.Client) -> None:
    ids = [run_shell(api, "true")["id"] for _ in range(5)]
    for run_id in ids:
        wait(api, run_id)
    first = api.get("/runs", params={"limit": 3, "state": "succeeded"}).json()
    rest = api.get("/runs", params={"limit": 3, "cursor": first["next_cursor"]}).json()
    assert [item["id"] for item in first["items"] + rest["items"]] == ids[::-1]
    assert rest["next_cursor"] is None
    assert "history" not in first["items"][0]


def test_the_log_comes_as_bytes_lines_and_events(api: httpx2.Client) -> None:
    run_id = run_shell(api, r"printf 'one\ntwo\n\377\000bytes'; echo err >&2")["id"]
    wait(api, run_id)
    plain = api.get(f"/runs/{run_id}/log")
    assert plain.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert sorted(plain.content.replace(b"err\n", b"")) == sorted(b"one\ntwo\n\xff\x00bytes")
    lines = ndjson(api.get(f"/runs/{run_id}/log", headers={"Accept": "application/x-ndjson"}))
    assert [line["line"] for line in lines] == [1, 2, 3, 4]
    assert {line["text"] for line in lines} == {"one", "two", "err", "�\x00bytes"}
    after = ndjson(api.get(f"/runs/{run_id}/log", params={"after": 2}, headers={"Accept": "application/x-ndjson"}))
    assert after == lines[2:]
    assert ndjson(api.get(f"/runs/{run_id}/log?tail=1", headers={"Accept": "application/x-ndjson"})) == lines[3:]
    events = api.get(f"/runs/{run_id}/log", headers={"Accept": "text/event-stream", "Last-Event-ID": "1-3"}).text
    assert "id: 1-4" in events
    assert "id: 1-3" not in events
    assert events.rstrip().endswith("event: eof\ndata:")


def ndjson(reply: httpx2.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in reply.content.splitlines()]


def test_a_followed_log_arrives_line_by_line(api: httpx2.Client) -> None:
    run_id = run_shell(api, "for i in 1 2 3; do echo $i; sleep 0.5; done")["id"]
    arrived = []
    with api.stream("GET", f"/runs/{run_id}/log?follow=1", headers={"Accept": "application/x-ndjson"}) as reply:
        for line in reply.iter_lines():
            arrived.append((time.monotonic(), json.loads(line)["text"]))
    assert [text for _, text in arrived] == ["1", "2", "3"]
    assert arrived[2][0] - arrived[0][0] > 0.5, "they came together, not as they were written"


def test_a_large_log_is_complete_in_every_form(api: httpx2.Client) -> None:
    run_id = run_shell(api, "seq 1 50000")["id"]
    wait(api, run_id)
    expected = "".join(f"{number}\n" for number in range(1, 50001)).encode()
    assert api.get(f"/runs/{run_id}/log").content == expected
    lines = ndjson(api.get(f"/runs/{run_id}/log", headers={"Accept": "application/x-ndjson"}))
    assert [(line["line"], line["text"]) for line in lines] == [(n, str(n)) for n in range(1, 50001)]


def test_a_task_with_schedules_is_created_shown_run_and_deleted(api: httpx2.Client) -> None:
    body = {
        "name": "nightly",
        "type": "shell",
        "params": {"command": "echo $WHO", "env": {"WHO": "task"}},
        "schedules": [
            {"cron": "30 2 * * 1-5", "timezone": "Europe/Berlin"},
            {"every": "10m"},
            {"at": "2099-01-01T00:00:00Z"},
        ],
    }
    created = api.post("/tasks", json=body)
    assert (created.status_code, created.headers["Location"]) == (201, "/api/v1/tasks/nightly")
    shown = api.get("/tasks/nightly")
    assert shown.headers["ETag"] == '"1"'
    assert shown.json()["schedules"][0] == {"cron": "30 2 * * 1-5", "timezone": "Europe/Berlin"}
    assert shown.json()["next_at"] < "2099"
    assert api.post("/tasks", json=body).status_code == 409
    run = api.post("/tasks/nightly/runs", json={"params": {"env": {"WHO": "caller"}}})
    assert (run.status_code, run.json()["task"]) == (201, "nightly")
    wait(api, run.json()["id"])
    assert api.get(f"/runs/{run.json()['id']}/log").text == "caller\n"
    assert api.put("/tasks/nightly", json={**body, "priority": 4}).json()["revision"] == 2
    by_task = api.post("/runs", json={"task": "nightly"}).json()
    assert (by_task["priority"], by_task["task"]) == (4, "nightly")
    assert [item["name"] for item in api.get("/tasks").json()["items"]] == ["nightly"]
    assert api.delete("/tasks/nightly").status_code == 204
    assert api.get("/tasks/nightly").status_code == 404
    assert len(api.get("/runs", params={"task": "nightly"}).json()["items"]) == 2


def test_a_bad_schedule_is_named_by_its_place(api: httpx2.Client) -> None:
    schedules = [{"cron": "61 * * * *"}, {"every": "1x"}, {"every": 5, "timezone": "Mars"}, {}]
    body = {"name": "x/y", "type": "shell", "params": {"command": "true"}, "schedules": schedules}
    found = {fault["pointer"]: fault["detail"] for fault in api.post("/tasks", json=body).json()["errors"]}
    assert found.keys() == {"/name", "/schedules/0/cron", "/schedules/1/every", "/schedules/2/timezone", "/schedules/3"}
    assert "the minute field '61'" in found["/schedules/0/cron"]
    past = {**body, "name": "past", "schedules": [{"at": "2001-01-01T00:00:00Z"}]}
    assert "lies in the past" in api.post("/tasks", json=past).json()["errors"][0]["detail"]


def test_events_tell_of_every_run_and_can_be_resumed(api: httpx2.Client) -> None:
    seen: list[dict[str, Any]] = []
    last_id = ""
    with api.stream("GET", "/events", headers={"Accept": "text/event-stream"}) as reply:
        lines = reply.iter_lines()
        assert next(lines).startswith(":")
        run_id = run_shell(api, "true")["id"]
        for line in lines:
            if line.startswith("id: "):
                last_id = line[4:]
            if line.startswith("data: {"):
                seen.append(json.loads(line[6:]))
            if last_id and seen and seen[-1]["state"] == "succeeded":
                break
    assert {event["id"] for event in seen} == {run_id}
    wait(api, missed := run_shell(api, "false")["id"])
    with api.stream("GET", "/events", params={"run": missed}, headers={"Last-Event-ID": last_id}) as reply:
        data = next(line for line in reply.iter_lines() if line.startswith("data: {"))
    assert json.loads(data[6:])["state"] in ("queued", "running", "failed")


def test_every_address_is_closed_without_a_token(server: Server) -> None:
    with httpx2.Client(base_url=server.url, trust_env=False) as stranger:
        for path in ("/api/v1/runs", "/api/v1/tasks", "/api/v1/events", "/api/v1/task-types", "/api/v1/plugins"):
            reply = stranger.get(path)
            assert (reply.status_code, reply.json()["code"]) == (401, "unauthenticated")
            assert reply.headers["WWW-Authenticate"].startswith("Bearer")
        assert stranger.get("/api/v1/runs", headers={"Authorization": "Bearer tm_wrong"}).status_code == 401
        assert stranger.get("/api/v1/runs", headers={"Authorization": "Basic eDp5"}).status_code == 401
        assert stranger.get("/api/v1/runs", headers={"Cookie": "taskman_session=x"}).status_code == 401
        assert stranger.post("/api/v1/runs", json={}).status_code == 401
        for path in ("/", "/runs", "/tasks", "/runs/new"):
            assert stranger.get(path).headers["Location"].startswith("/login")
        for path in ("/health", "/healthcheck", "/ready"):
            assert stranger.get(path).json()["status"] == "ok"
        assert stranger.get("/health", headers={"Host": "evil.example"}).status_code == 421


def test_a_session_may_use_the_api_but_other_sites_may_not(server: Server) -> None:
    with httpx2.Client(base_url=server.url, trust_env=False) as browser:
        assert browser.get(server.link).headers["Location"] == "/"
        assert browser.get("/api/v1/runs").status_code == 200
        body = {"type": "shell", "params": {"command": "true"}}
        assert browser.post("/api/v1/runs", json=body).status_code == 201
        foreign = {"Origin": "http://evil.example"}
        assert browser.post("/api/v1/runs", json=body, headers=foreign).status_code == 403
        assert browser.post("/api/v1/runs", json=body, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
        assert browser.post("/tasks/x/delete", data={}).status_code == 403
        assert browser.post("/logout").headers["Location"] == "/login"
        assert browser.get("/api/v1/runs").status_code == 401
        assert browser.get(server.link).status_code == 403, "a link works once"


def test_an_every_second_task_fires_each_instant_once(api: httpx2.Client) -> None:
    body = {"name": "tick", "type": "shell", "params": {"command": "true"}, "schedules": [{"every": "1s"}]}
    assert api.post("/tasks", json=body).status_code == 201

    def fired() -> list[dict[str, Any]] | None:
        items: list[dict[str, Any]] = api.get("/runs", params={"task": "tick"}).json()["items"]
        return items if len(items) >= 5 else None

    times = sorted(item["fire_time"] for item in eventually(fired))
    anchor = api.get("/tasks/tick").json()["schedules"][0]["anchor"]
    assert [stamp[-5:] for stamp in times] == [anchor[-5:]] * len(times), "each is a whole period from the anchor"
    assert len(set(times)) == len(times)
