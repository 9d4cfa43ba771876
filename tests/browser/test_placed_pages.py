"""A run on every worker in a real browser: three servers on one Redis, each with a worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import Pages
from harness import Server, eventually
from selenium.webdriver.support.ui import Select

pytestmark = pytest.mark.browser

ZONES = ("berlin", "lima", "oslo")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The first of them, once it sees the others."""
    folder = tmp_path_factory.mktemp("sites")
    first = Server(folder / "a", "--workers", "2", environment={"TASKMAN_LABELS": f"zone={ZONES[0]}"}).start()
    socket = next((folder / "a" / "redis").glob("*.sock"))
    shared = {"TASKMAN_REDIS_URL": f"unix://{socket}"}
    servers = [first]
    for zone in ZONES[1:]:
        server = Server(folder / zone, "--workers", "2", environment={**shared, "TASKMAN_LABELS": f"zone={zone}"})
        servers.append(server.start())
    with first.client() as api:
        eventually(lambda: len(api.get("/workers").json()["items"]) == len(ZONES), "all workers are there")
    yield first
    for server in reversed(servers):
        server.kill_tree()


def place(site: Server, folder: Path) -> str:
    """A run on every worker that waits for a file, and fails when that holds a word; its id."""
    command = f"while [ ! -e {folder}/go ]; do sleep 0.05; done; mkdir {folder}/taken || exit 3"
    with site.client() as api:
        reply = api.post("/runs", json={"type": "shell", "params": {"command": command}, "place": "all"})
        assert reply.status_code == 201, reply.text
        return str(reply.json()["id"])


def test_the_page_shows_each_worker_and_how_it_goes_there(pages: Pages, site: Server, tmp_path: Path) -> None:
    run_id = place(site, tmp_path)
    pages.visit(f"/runs/{run_id}")
    pages.until(lambda: len(pages.all("#children tbody tr")) == len(ZONES), "a row for each worker")
    pages.until(lambda: pages.text("h1 .chip") == "running")
    assert "0 of 3 ended" in pages.text("#log-title")
    (tmp_path / "go").touch()
    pages.until(lambda: pages.text("h1 .chip") == "failed", "it ends with the last of them")
    assert "3 of 3 ended" in pages.text("#log-title")
    states = [chip.text for chip in pages.all("#children .chip")]
    assert states == ["failed", "failed", "succeeded"], "those that went wrong come first"
    assert "did not succeed on 2 of 3 workers" in pages.text("#run-head .failure")
    pages.press("#children tbody a")
    assert run_id[-6:] in pages.text("#run-head .lead"), "a child names its parent"
    pages.press("#run-head .lead a")
    assert pages.path == f"/runs/{run_id}"
    pages.press("#children .log-bar a")
    assert len(pages.all("tbody tr")) == len(ZONES)


def test_it_is_chosen_in_the_form(pages: Pages, site: Server) -> None:
    pages.visit("/runs/new?type=shell")
    pages.type("params.command", "true")
    pages.one("details:has([name=place]) summary").click()
    Select(pages.one("[name=place]")).select_by_value("all")
    pages.press("form button.primary")
    pages.until(lambda: pages.text("h1 .chip") == "succeeded")
    assert "3 of 3 ended" in pages.text("#log-title")


def test_the_command_line_says_where_it_went_wrong(site: Server) -> None:
    done = site.command("run", "--place", "all", "--", "true")
    assert done.returncode == 0, done.stderr
    run_id = done.stderr.split("--parent ")[1].split()[0]
    listed = site.command("runs", "list", "--parent", run_id, "--json")
    assert listed.stdout.count('"trigger": "place"') == len(ZONES), listed.stdout
