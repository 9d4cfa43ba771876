"""Workers, and a run on every one, in a real browser: three servers on one Redis, each with a worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from browsing import Pages
from harness import Server, eventually
from selenium.webdriver.support.ui import Select

from taskman.model.admission import Node
from taskman.store.store import Store
from taskman.store.workers import About

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


def report_old_worker(site: Server) -> None:
    """What a worker of an older release on another machine says of itself."""

    async def report() -> None:
        store = Store(f"unix://{next((site.directory / 'redis').glob('*.sock'))}")
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            about = About("build-7", "0.0.9", "192.0.2.7")
            node = Node("build-7-0c1d", frozenset({"shell"}), {"arch": "arm64"}, 4, 1, frozenset({"builds"}))
            await store.workers.report(node, {"shell": "0.9"}, about)
            nursery.cancel_scope.cancel()

    trio.run(report)


def test_the_list_of_workers_shows_them_and_how_their_types_differ(pages: Pages, site: Server) -> None:
    pages.visit("/workers")
    assert "3 online" in pages.text("#workers .lead")
    assert not pages.all("#workers .warning")
    report_old_worker(site)
    pages.until(lambda: len(pages.all("#workers tbody tr")) == len(ZONES) + 1, "it comes with its heartbeat")
    assert "shell differs from worker to worker." in pages.text("#workers .warning")
    assert "version 0.9 on 1" in pages.text("#workers .warning")
    assert "zone=lima" in pages.text("#workers tbody")
    pages.press("#workers tbody a[href='/workers/build-7-0c1d']")
    assert pages.text("h1 .name") == "build-7"
    assert "shell: others have" in pages.text("#worker p.differs")


def test_a_worker_is_drained_and_resumed_on_its_page(pages: Pages, site: Server, tmp_path: Path) -> None:
    with site.client() as api:
        worker = next(one["id"] for one in api.get("/workers").json()["items"] if one["labels"].get("zone") == "lima")
        body = {"params": {"command": f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"}, "type": "shell"}
        run_id = api.post("/runs", json=body | {"requires": {"worker": worker}}).json()["id"]
        pages.visit(f"/workers/{worker}")
        pages.until(lambda: len(pages.all("#worker .runs .running")) == 1, "it runs there")
        pages.press("#drain")
        assert "It takes nothing new." in pages.text("#worker .warning")
        assert pages.text("h1 .chip") == "draining"
        waiting = api.post("/runs", json=body | {"requires": {"worker": worker}}).json()["id"]
        (tmp_path / "go").touch()
        pages.until(lambda: "nothing left to finish" in pages.text("#worker .warning"), "what it ran has ended")
        assert len(pages.all("#worker .succeeded")) >= 1
        assert api.get(f"/runs/{waiting}").json()["state"] == "queued"
        pages.press("#resume")
        assert api.get(f"/runs/{waiting}?wait=10").json()["worker"] == worker
        assert api.get(f"/runs/{run_id}").json()["state"] == "succeeded"


def test_the_workers_can_be_read_without_javascript_and_on_a_phone(pages: Pages, plain: Pages) -> None:
    plain.visit("/workers")
    assert len(plain.all("#workers tbody tr")) >= len(ZONES)
    pages.driver.set_window_size(500, 900)
    pages.visit("/workers")
    assert pages.driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
