"""The hooks on real servers: who is told that a run is over, what pages plugins add, how broken ones harm nobody."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from harness import Server, eventually
from planting import GREET, HEAD, plant

NOTIFIER = """
import json, os, time

@hookimpl
def taskman_run_finished(run):
    with open(os.environ["NOTES"], "a") as file:
        file.write(json.dumps({"pid": os.getpid(), "id": run["id"], "state": run["state"], "by": "%s",
                               "attempts": len(run["attempts"]), "history": len(run["history"])}) + "\\n")
"""
RAISES = "@hookimpl\ndef taskman_run_finished(run): raise RuntimeError('no line to the pager')\n"
HANGS = "import time\n@hookimpl\ndef taskman_run_finished(run): time.sleep(3600)\n"
PAGES = """
from pathlib import Path
from quart import render_template, request

@hookimpl
def taskman_template_dirs(): return [Path(__file__).parent / "our-templates"]

@hookimpl
def taskman_nav_items(): return [("<Reports>", "/x/reports")]

@hookimpl
def taskman_routes(app):
    @app.get("/x/reports/<name>")
    async def report(name): return await render_template("report.j2", name=name)
    @app.post("/x/reports")
    async def save(): return "saved " + (await request.form)["word"]
    @app.get("/api/x/reports")
    async def reports(): return {"items": []}
    @app.post("/api/x/reports")
    async def make(): return {"made": True}
"""
HALF = """
@hookimpl
def taskman_routes(app):
    @app.get("/x/half")
    async def half(): return "half"
    raise LookupError("the other half")
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "site"


@pytest.fixture
def start(make_server: Callable[..., Server], place: Path, tmp_path: Path) -> Callable[..., Server]:
    def start(name: str = "data", **environment: str) -> Server:
        paths = {"PYTHONPATH": str(place), "NOTES": str(tmp_path / "notes")}
        return make_server(name, environment={**paths, **environment})

    return start


def notes(tmp_path: Path) -> list[dict[str, Any]]:
    file = tmp_path / "notes"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def submit(server: Server, count: int, command: str = "true") -> list[str]:
    runs = [{"type": "shell", "params": {"command": command}}] * count
    with server.client() as api:
        return [item["id"] for item in api.post("/runs/bulk", json={"runs": runs}).json()["items"]]


def test_each_run_is_told_of_once_whatever_the_number_of_servers(
    start: Callable[..., Server],
    place: Path,
    tmp_path: Path,
    start_redis: Callable[..., tuple[str, subprocess.Popen[bytes]]],
) -> None:
    plant(place, "notes", HEAD + NOTIFIER % "notes")
    url, _ = start_redis()
    servers = [start(name, TASKMAN_REDIS_URL=url) for name in ("one", "two", "three")]
    ids = [run_id for server in servers for run_id in submit(server, 40)]
    eventually(lambda: len(notes(tmp_path)) >= len(ids))
    with servers[0].client() as api:
        cancelled = api.post("/runs", json={"type": "shell", "params": {"command": "true"}, "delay": "1h"}).json()["id"]
        api.post(f"/runs/{cancelled}/cancel", json={})
    eventually(lambda: cancelled in {one["id"] for one in notes(tmp_path)})
    for server in servers:
        assert server.stop() == 0
    told = notes(tmp_path)
    assert Counter(one["id"] for one in told) == Counter([*ids, cancelled])
    assert {one["state"] for one in told} == {"succeeded", "cancelled"}
    assert {one["attempts"] for one in told if one["state"] == "succeeded"} == {1}


def test_what_fails_or_hangs_in_a_notifier_changes_nothing_and_keeps_nobody_waiting(
    start: Callable[..., Server], place: Path, tmp_path: Path
) -> None:
    plant(place, "hangs", HEAD + HANGS)
    plant(place, "notes", HEAD + NOTIFIER % "notes")
    plant(place, "raises", HEAD + RAISES)
    server = start()
    ids = submit(server, 20)
    eventually(lambda: len(notes(tmp_path)) == 20)
    assert {one["id"] for one in notes(tmp_path)} == set(ids)
    with server.client() as api:
        assert {run["state"] for run in api.get("/runs").json()["items"]} == {"succeeded"}
    eventually(lambda: "no line to the pager" in server.errors())
    assert server.stop(within_s=8) == 0


def test_a_run_that_ended_just_before_its_server_is_told_of_by_the_next_one(
    start: Callable[..., Server], place: Path, tmp_path: Path
) -> None:
    server = start("data")
    (run_id,) = submit(server, 1)
    with server.client() as api:
        eventually(lambda: api.get(f"/runs/{run_id}").json()["finished_at"])
    assert server.stop() == 0
    plant(place, "notes", HEAD + NOTIFIER % "notes")
    server.start()
    eventually(lambda: [one["id"] for one in notes(tmp_path)] == [run_id])


def test_a_run_that_ends_while_its_server_stops_is_told_of(
    start: Callable[..., Server], place: Path, tmp_path: Path
) -> None:
    plant(place, "notes", HEAD + NOTIFIER % "notes")
    server = start(TASKMAN_DRAIN_TIMEOUT="10")
    (run_id,) = submit(server, 1, command="sleep 1")
    with server.client() as api:
        eventually(lambda: api.get(f"/runs/{run_id}").json()["state"] == "running")
    assert server.stop() == 0
    assert [(one["id"], one["state"]) for one in notes(tmp_path)] == [(run_id, "succeeded")]


@pytest.fixture
def paged(start: Callable[..., Server], place: Path) -> Server:
    """A server with a plugin of pages, one of half its pages, and one that is broken."""
    templates = place / "our-templates"
    (templates / "plugins").mkdir(parents=True)
    (templates / "report.j2").write_text("{% extends 'base.html' %}{% block main %}<p>{{ name }}</p>{% endblock %}")
    ours = "{% extends 'taskman/plugins/index.html' %}{% block title %}Our plugins{% endblock %}"
    (templates / "plugins" / "index.html").write_text(ours)
    plant(place, "pages", HEAD + PAGES)
    plant(place, "half", HEAD + HALF)
    plant(place, "broken", "1 / 0")
    plant(place, "quits", "import sys; sys.exit('bye')")
    plant(place, "greet", HEAD + GREET)
    return start()


@pytest.fixture
def browser(paged: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=paged.url, timeout=30, trust_env=False, follow_redirects=True) as client:
        client.get(paged.link)
        yield client


def test_pages_of_plugins(paged: Server, browser: httpx2.Client) -> None:
    page = browser.get("/x/reports/%3Cscript%3E")
    assert "<p>&lt;script&gt;</p>" in page.text, "autoescape is on, whatever the template is called"
    assert '<a href="/x/reports" aria-current="page">' in page.text
    assert "&lt;Reports&gt;" in page.text
    plugins = browser.get("/plugins").text
    assert "<title>Our plugins" in plugins
    assert "Installed plugins" in plugins
    # a form of a plugin's page needs the token, like ours
    assert browser.post("/x/reports", data={"word": "hi"}).status_code == 403
    token = page.text.partition('name="form_token" value="')[2].partition('"')[0]
    assert browser.post("/x/reports", data={"word": "hi", "form_token": token}).text == "saved hi"
    # nobody reaches any of it signed out
    with httpx2.Client(base_url=paged.url, trust_env=False) as stranger:
        for path in ("/x/reports/a", "/x/half"):
            assert stranger.get(path).headers["Location"].startswith("/login")
        assert stranger.post("/x/reports", data={"word": "hi"}).status_code == 303
        assert stranger.get("/api/x/reports").status_code == 401
        assert stranger.get("/login").status_code == 200
    token = {"Authorization": f"Bearer {paged.token}"}
    assert httpx2.get(f"{paged.url}/api/x/reports", headers=token, trust_env=False).json() == {"items": []}


def test_to_look_needs_read_and_everything_else_write(paged: Server, browser: httpx2.Client) -> None:
    with paged.client() as api, httpx2.Client(base_url=paged.url, trust_env=False) as client:
        for scope, looked, made in (("read", 200, 403), ("run", 200, 403), ("write", 200, 200), ("worker", 403, 403)):
            token = api.post("/tokens", json={"name": scope, "scope": scope}).json()["token"]
            headers = {"Authorization": f"Bearer {token}"}
            assert client.get("/api/x/reports", headers=headers).status_code == looked, scope
            assert client.post("/api/x/reports", headers=headers, json={}).status_code == made, scope


def test_broken_plugins_are_shown_everywhere_and_stop_nothing(paged: Server, browser: httpx2.Client) -> None:
    with paged.client() as api:
        found = {one["name"]: one for one in api.get("/plugins").json()["items"]}
        created = api.post("/runs", json={"type": "greet", "params": {"who": "you"}}).json()
        ended = api.get(f"/runs/{created['id']}", params={"wait": "20"}).json()
    assert ended["result"] == {"greeted": "you"}
    complaints = {
        "broken": "the import of broken raised ZeroDivisionError: division by zero (broken.py, line 1)",
        "quits": "the import of quits ended with sys.exit('bye')",
        "half": "its pages are not all there: taskman_routes raised LookupError: the other half",
    }
    page, listed = browser.get("/plugins").text.replace("&#39;", "'"), paged.command("plugins", "list")
    items = {one["name"]: one for one in json.loads(paged.command("plugins", "list", "--json").stdout)["items"]}
    assert listed.returncode == 0
    for name, complaint in complaints.items():
        assert found[name]["error"] == complaint
        assert complaint in page
        if name != "half":  # routes are registered by a server only
            assert complaint in listed.stderr
            assert items[name]["error"] == complaint
        assert complaint in paged.errors()
    assert found["greet"]["error"] is None
    assert "broken  " in listed.stdout
