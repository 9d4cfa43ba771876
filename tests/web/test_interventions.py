"""What people do by hand to the schedules of a task, over the API of a real server and on the command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import httpx2
import pytest
from harness import Server

HOURLY = {"every": "1h", "anchor": "2026-01-01T00:00:00Z"}
DAY = {"from": "2026-02-01T00:00:00Z", "to": "2026-02-01T23:59:00Z"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("interventions") / "data")
    yield server.start()
    server.kill_tree()


@pytest.fixture
def api(site: Server) -> Iterator[httpx2.Client]:
    with site.client() as client:
        yield client
        for task in client.get("/tasks").json()["items"]:
            client.delete(f"/tasks/{task['name']}")


def save(api: httpx2.Client, name: str, *schedules: dict[str, Any], **more: Any) -> dict[str, Any]:
    body = {"name": name, "type": "shell", "params": {"command": "true"}, "schedules": list(schedules), **more}
    reply = api.post("/tasks", json=body)
    assert reply.status_code == 201, reply.text
    saved: dict[str, Any] = reply.json()
    return saved


def test_a_paused_task_is_not_due_and_owes_nothing_when_it_goes_on(api: httpx2.Client) -> None:
    saved = save(api, "hourly", HOURLY)
    paused = api.post("/tasks/hourly/pause").json()
    assert (paused["enabled"], paused["next_at"]) == (False, None)
    assert api.post("/tasks/hourly/pause").json()["revision"] == paused["revision"] > saved["revision"]
    resumed = api.post("/tasks/hourly/resume").json()
    assert (resumed["enabled"], resumed["next_at"]) == (True, saved["next_at"])
    assert {**resumed, "revision": 0, "updated_at": ""} == {**saved, "revision": 0, "updated_at": ""}
    assert api.post("/tasks/hurly/pause").status_code == 404


def test_the_next_due_instant_is_skipped_by_request_and_says_so(api: httpx2.Client) -> None:
    saved = save(api, "hourly", HOURLY)
    done = api.post("/tasks/hourly/skip").json()
    assert done["skipped"] == saved["next_at"]
    following = datetime.fromisoformat(saved["next_at"]) + timedelta(hours=1)
    assert datetime.fromisoformat(done["next_at"]) == following
    assert api.get("/tasks/hourly/next").json()["items"][0]["at"] == done["next_at"]
    assert api.get("/tasks/hourly/ledger").json() == {
        "items": [
            {
                "fire_time": saved["next_at"],
                "outcome": "skipped",
                "reason": "requested",
                "run": None,
                "schedule": 0,
                "since": None,
                "count": 1,
            }
        ],
        "next_cursor": None,
    }


def test_an_instant_that_is_meant_is_skipped_once_and_no_other_in_its_place(api: httpx2.Client) -> None:
    saved = save(api, "hourly", HOURLY)
    assert api.post("/tasks/hourly/skip", json={"at": saved["next_at"]}).json()["skipped"] == saved["next_at"]
    again = api.post("/tasks/hourly/skip", json={"at": saved["next_at"]})
    assert (again.status_code, len(api.get("/tasks/hourly/ledger").json()["items"])) == (409, 1), again.text
    assert api.post("/tasks/hourly/skip", json={"at": "soon"}).json()["errors"][0]["pointer"] == "/at"


def test_nothing_due_cannot_be_skipped(api: httpx2.Client) -> None:
    save(api, "never")
    assert api.post("/tasks/never/skip").status_code == 409
    reply = api.post("/tasks/never/skip", json={"schedule": 3})
    assert (reply.status_code, reply.json()["errors"][0]["pointer"]) == (422, "/schedule")


def test_the_ledger_comes_in_pages(api: httpx2.Client) -> None:
    save(api, "hourly", HOURLY)
    skipped = [api.post("/tasks/hourly/skip").json()["skipped"] for _ in range(5)]
    first = api.get("/tasks/hourly/ledger", params={"limit": 3}).json()
    second = api.get("/tasks/hourly/ledger", params={"limit": 3, "cursor": first["next_cursor"]}).json()
    assert [one["fire_time"] for one in first["items"] + second["items"]] == skipped[::-1]
    assert second["next_cursor"] is None


def test_a_backfill_is_counted_first_and_makes_each_run_once(api: httpx2.Client) -> None:
    save(api, "hourly", {**HOURLY, "window": "06:00-18:00", "timezone": "UTC", "params": {"command": "echo past"}})
    counted = api.post("/tasks/hourly/backfill", json={**DAY, "dry_run": True}).json()
    assert (counted["count"], counted["created"], counted["first"]) == (12, 0, "2026-02-01T06:00:00.000Z")
    assert api.get("/runs", params={"task": "hourly"}).json()["items"] == []
    done = api.post("/tasks/hourly/backfill", json=DAY).json()
    assert (done["count"], done["created"]) == (12, 12)
    again = api.post("/tasks/hourly/backfill", json=DAY).json()
    assert (again["count"], again["created"]) == (12, 0)
    runs = api.get("/runs", params={"task": "hourly"}).json()["items"]
    assert {run["params"]["command"] for run in runs} == {"echo past"}
    assert len({run["fire_time"] for run in runs}) == len(runs) == 12


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"from": DAY["to"], "to": DAY["from"]}, "/to"),
        ({"from": DAY["from"], "to": "2999-01-01T00:00:00Z"}, "/to"),
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-03-01T00:00:00Z"}, "/from"),
        ({"from": DAY["from"]}, "/to"),
        ({**DAY, "schedule": 9}, "/schedule"),
    ],
)
def test_a_backfill_of_nonsense_is_refused(api: httpx2.Client, body: dict[str, Any], pointer: str) -> None:
    save(api, "hourly", HOURLY)
    reply = api.post("/tasks/hourly/backfill", json=body)
    assert (reply.status_code, reply.json()["errors"][0]["pointer"]) == (422, pointer), reply.text


def test_a_task_cannot_wait_for_one_that_is_not_there(api: httpx2.Client) -> None:
    save(api, "backup")
    chain = {"after": [{"task": "backup"}, {"task": "bakcup"}]}
    body = {"name": "report", "type": "shell", "params": {"command": "true"}, "schedules": [chain]}
    reply = api.post("/tasks", json=body)
    assert reply.status_code == 422
    (fault,) = reply.json()["errors"]
    assert fault["pointer"] == "/schedules/0/after/1/task"
    assert "did you mean 'backup'" in fault["detail"]


def test_tasks_cannot_wait_for_each_other_in_a_circle(api: httpx2.Client) -> None:
    save(api, "a")
    save(api, "b", {"after": [{"task": "a"}]})
    save(api, "c", {"after": [{"task": "b", "on": "always"}]})
    body = {"type": "shell", "params": {"command": "true"}, "schedules": [{"after": [{"task": "c"}]}]}
    reply = api.put("/tasks/a", json=body)
    assert reply.status_code == 422
    assert "a waits for c waits for b waits for a" in reply.json()["errors"][0]["detail"]


def test_a_chain_runs_through_real_workers(api: httpx2.Client) -> None:
    save(api, "first")
    save(api, "second", {"after": [{"task": "first"}]})
    save(api, "third", {"after": [{"task": "second", "on": "always"}], "params": {"command": "echo third"}})
    with api.stream("GET", "/events", params={"task": "third"}, timeout=30) as events:
        lines = events.iter_lines()
        api.post("/tasks/first/runs", json={})
        while not (runs := api.get("/runs", params={"task": "third"}).json()["items"]):
            next(lines)
    done = api.get(f"/runs/{runs[0]['id']}", params={"wait": 20}).json()
    assert (done["state"], done["trigger"], done["params"]["command"]) == ("succeeded", "schedule", "echo third")


def test_the_command_line_pauses_skips_backfills_and_shows_the_ledger(api: httpx2.Client, site: Server) -> None:
    save(api, "hourly", HOURLY)

    def taskman(*words: str) -> str:
        command = [sys.executable, "-m", "taskman", "tasks", *words]
        done = subprocess.run(command, env=site.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert "is paused" in taskman("pause", "hourly")
    assert "goes on; next due" in taskman("resume", "hourly")
    assert "skips" in taskman("skip", "hourly")
    assert "skipped (requested)" in taskman("ledger", "hourly")
    times = ("--from", "2026-02-02T00:00:00Z", "--to", "2026-02-02T23:59:00Z")
    assert "was due 24 times" in taskman("backfill", "hourly", *times, "--dry-run")
    assert "24 of them are queued" in taskman("backfill", "hourly", *times, "--yes")
