"""`GET /runs`: its filters as a client writes them, and pages that are short."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from harness import Server


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    server = Server(tmp_path_factory.mktemp("listing") / "data").start()
    with server.client() as client:
        yield client
    server.kill_tree()


@pytest.fixture(scope="module")
def ended(api: httpx2.Client) -> dict[str, Any]:
    """A run that is over, and nothing that it could be taken for."""
    for body in (
        {"type": "shell", "params": {"command": "echo Zürich"}, "queue": "slow"},
        {"type": "shell", "params": {"command": "true"}, "delay": "1h"},
    ):
        made = api.post("/runs", json=body).json()["id"]
    first = api.get("/runs", params={"queue": "slow"}).json()["items"][0]["id"]
    run: dict[str, Any] = api.get(f"/runs/{first}?wait=20").json()
    assert (run["state"], made != first) == ("succeeded", True)
    return run


def listed(api: httpx2.Client, **filters: Any) -> list[str]:
    reply = api.get("/runs", params=filters)
    assert reply.status_code == 200, reply.text
    return [run["id"] for run in reply.json()["items"]]


def test_each_filter_finds_it(api: httpx2.Client, ended: dict[str, Any]) -> None:
    for filters in (
        {"worker": ended["worker"]},
        {"q": "zürich"},
        {"q": ended["id"].upper(), "state": "succeeded"},
        {"worker": ended["worker"], "type": "shell", "queue": "slow", "since": ended["created_at"]},
    ):
        assert listed(api, **filters) == [ended["id"]], filters


def test_each_filter_passes_over_it(api: httpx2.Client, ended: dict[str, Any]) -> None:
    for filters in (
        {"worker": "nobody"},
        {"q": "Geneva"},
        {"worker": ended["worker"], "since": "2100-01-01T00:00:00Z"},
        {"until": "2000-01-01T00:00:00+01:00"},
        {"since": "2100-01-01T00:00:00Z", "until": "2000-01-01T00:00:00Z"},
    ):
        assert listed(api, **filters) == [], filters


@pytest.mark.parametrize("text", ["yesterday", "2026-01-01T00:00:00", "2026-01-01", "", "99999999999999999"])
@pytest.mark.parametrize("name", ["since", "until"])
def test_what_is_no_instant_is_refused(api: httpx2.Client, name: str, text: str) -> None:
    reply = api.get("/runs", params={name: text})
    assert reply.status_code == 422
    assert [fault["pointer"] for fault in reply.json()["errors"]] == [f"?{name}"]


@pytest.mark.parametrize("instant", ["0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "9999-12-31T23:59:59Z"])
def test_any_instant_is_one(api: httpx2.Client, ended: dict[str, Any], instant: str) -> None:
    is_past = instant < "2000"
    assert (ended["id"] in listed(api, since=instant)) == is_past
    assert (ended["id"] in listed(api, until=instant)) != is_past


def test_a_misspelt_filter_is_refused_with_the_nearest(api: httpx2.Client) -> None:
    reply = api.get("/runs?workr=w1")
    assert (reply.status_code, reply.json()["errors"][0]["pointer"]) == (422, "?workr")
    assert "did you mean 'worker'" in reply.json()["detail"]


def test_a_page_of_a_rare_match_is_short_and_leads_on(make_server: Any, tmp_path: Path) -> None:
    server: Server = make_server("many", "--workers", "0")
    with server.client() as api:
        rare = api.post("/runs", json={"type": "shell", "params": {"command": "echo rare"}, "delay": "1h"}).json()["id"]
        bulk = {"runs": [{"type": "shell", "params": {"command": "true"}, "delay": "1h"}] * 5500}
        assert api.post("/runs/bulk", json=bulk).status_code == 200
        page = api.get("/runs", params={"q": "rare"}).json()
        assert page["items"] == []
        assert page["next_cursor"]
        page = api.get("/runs", params={"q": "rare", "cursor": page["next_cursor"]}).json()
        assert [run["id"] for run in page["items"]] == [rare]
        assert page["next_cursor"] is None
    done = server.command("runs", "list", "--search", "rare", "--jsonl")
    assert done.stdout.count("\n") == 1
    assert rare in done.stdout
