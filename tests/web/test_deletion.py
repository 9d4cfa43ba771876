"""Deleting runs that are over: what goes with them, and what stays."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from harness import Server

UNKNOWN = "r0-" + "0" * 23


@pytest.fixture
def api(server: Server) -> Iterator[httpx2.Client]:
    with server.client() as client:
        yield client


def submit(api: httpx2.Client, command: str, **options: Any) -> str:
    reply = api.post("/runs", json={"type": "shell", "params": {"command": command}, **options})
    assert reply.status_code == 201, reply.text
    return str(reply.json()["id"])


def ended(api: httpx2.Client, run_id: str) -> dict[str, Any]:
    run: dict[str, Any] = api.get(f"/runs/{run_id}?wait=20").json()
    assert run["finished_at"], run
    return run


def listed(api: httpx2.Client, **filters: str) -> list[str]:
    return [run["id"] for run in api.get("/runs", params=filters).json()["items"]]


def test_a_run_goes_with_its_log_and_others_stay(api: httpx2.Client) -> None:
    gone, kept = submit(api, "echo hello"), submit(api, "echo hello")
    ended(api, gone), ended(api, kept)
    reply = api.delete(f"/runs/{gone}")
    assert (reply.status_code, reply.content) == (204, b"")
    for path in ("", "/log", "/why"):
        assert api.get(f"/runs/{gone}{path}").status_code == 404
    assert listed(api) == [kept]
    assert api.get(f"/runs/{kept}/log", headers={"Accept": "text/plain"}).text == "hello\n"


def test_what_is_not_there_is_not_found(api: httpx2.Client) -> None:
    for run_id in (UNKNOWN, "nonsense"):
        assert api.delete(f"/runs/{run_id}").status_code == 404
    run = submit(api, "true")
    ended(api, run)
    assert [api.delete(f"/runs/{run}").status_code for _ in range(2)] == [204, 404]


@pytest.mark.parametrize(("options", "state"), [({}, "running"), ({"delay": "1h"}, "scheduled")])
def test_a_run_that_is_not_final_stays(api: httpx2.Client, options: dict[str, Any], state: str) -> None:
    run = submit(api, "echo begun; sleep 60", **options)
    if state == "running":
        with api.stream("GET", f"/runs/{run}/log?follow=1", headers={"Accept": "text/plain"}) as log:
            assert next(log.iter_lines()) == "begun"
    reply = api.delete(f"/runs/{run}")
    assert (reply.status_code, reply.json()["code"]) == (409, "conflict")
    assert reply.json()["detail"] == f"run {run} is {state}: only runs that are over can be deleted; cancel it first"
    api.post(f"/runs/{run}/cancel", json={"force": True})
    ended(api, run)
    assert api.delete(f"/runs/{run}").status_code == 204


def test_children_go_with_their_parent_and_not_before(api: httpx2.Client) -> None:
    parent = submit(api, "true", place="all")
    ended(api, parent)
    (child,) = listed(api, parent=parent)
    reply = api.delete(f"/runs/{child}")
    assert reply.status_code == 409
    assert f"is kept with run {parent}" in reply.json()["detail"]
    assert api.delete(f"/runs/{parent}").status_code == 204
    assert listed(api) == []


def test_a_task_has_one_run_less(api: httpx2.Client) -> None:
    api.post("/tasks", json={"name": "t", "type": "shell", "params": {"command": "true"}})
    first, second = (api.post("/tasks/t/runs", json={}).json()["id"] for _ in range(2))
    ended(api, first), ended(api, second)
    assert api.delete(f"/runs/{first}").status_code == 204
    assert listed(api, task="t") == [second]


def test_a_repeated_request_for_a_deleted_run_makes_no_second_one(api: httpx2.Client) -> None:
    body = {"type": "shell", "params": {"command": "true"}}
    run = api.post("/runs", json=body, headers={"Idempotency-Key": "k"}).json()["id"]
    ended(api, run)
    assert api.delete(f"/runs/{run}").status_code == 204
    reply = api.post("/runs", json=body, headers={"Idempotency-Key": "k"})
    assert (reply.status_code, reply.json()["code"]) == (409, "conflict")
    assert listed(api) == []


def test_of_many_who_delete_a_run_none_fails(api: httpx2.Client) -> None:
    run = submit(api, "true")
    ended(api, run)
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: api.delete(f"/runs/{run}").status_code, range(8)))
    assert 204 in codes
    assert set(codes) <= {204, 404}


@pytest.mark.parametrize(("scope", "status"), [("read", 403), ("run", 403), ("write", 204)])
def test_it_takes_the_scope_write(api: httpx2.Client, scope: str, status: int) -> None:
    run = submit(api, "true")
    ended(api, run)
    token = api.post("/tokens", json={"scope": scope}).json()["token"]
    assert api.delete(f"/runs/{run}", headers={"Authorization": f"Bearer {token}"}).status_code == status
