"""A plugin that is installed on a worker alone: the server offers, checks and routes its type all the same."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from harness import Server, eventually
from planting import HEAD, pip_install_example, plant
from remote_workers import WorkerProcess
from workers.conftest import final, log_of, submit

Make = Callable[..., WorkerProcess]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return pip_install_example(tmp_path / "example")


def known(client: httpx2.Client) -> dict[str, Any]:
    return {one["name"]: one for one in client.get("/task-types").json()["items"]}


def test_a_type_that_only_a_worker_has_is_offered_checked_and_routed(
    front: Server, make_worker: Make, site: Path
) -> None:
    make_worker(front).connected()
    with front.client() as client:
        assert "hello" not in known(client)
        refused = client.post("/runs", json={"type": "hello"})
        assert "there is no task type 'hello'" in refused.json()["errors"][0]["detail"]
        worker = make_worker(front, PYTHONPATH=str(site)).connected()
        hello = eventually(lambda: known(client).get("hello"), "the type is known", 10)
        assert hello["schema"]["properties"]["times"]["maximum"] == 1000
        assert hello["workers"] == [{"id": worker.id, "version": "1.0"}]
        reply = client.post("/runs", json={"type": "hello", "params": {"who": "Ada", "times": 2, "pause": 0}})
        run = final(client, reply.json()["id"])
        assert (run["state"], run["worker"]) == ("succeeded", worker.id)
        assert log_of(client, run["id"]) == "Hello, Ada!\n" * 2


def test_its_params_are_checked_by_their_schema_and_the_form_has_its_fields(
    front: Server, make_worker: Make, site: Path
) -> None:
    make_worker(front, PYTHONPATH=str(site)).connected()
    visitor = httpx2.Client(base_url=front.url, trust_env=False, follow_redirects=True)
    with front.client() as client, visitor as browser:
        eventually(lambda: known(client).get("hello"), "the type is known", 10)
        params = {"times": 5000, "whoo": "x", "language": "de"}
        reply = client.post("/runs", json={"type": "hello", "params": params})
        faults = {one["pointer"]: one["detail"] for one in reply.json()["errors"]}
        assert reply.status_code == 422
        assert {"/params/times", "/params/whoo"} <= set(faults)
        assert faults["/params/whoo"] == "there is no field 'whoo'; did you mean 'who'?"
        saved = client.post("/tasks", json={"name": "greet", "type": "hello", "params": {"who": 1}})
        assert saved.json()["errors"][0]["pointer"] == "/params/who"
        browser.get(front.link)
        form = browser.get("/runs/new?type=hello").text
        assert 'name="params.who"' in form
        assert '<option value="fr">fr</option>' in form
        assert "hello" in browser.get("/plugins").text


def test_a_type_whose_worker_has_gone_waits_for_it(front: Server, make_worker: Make, site: Path) -> None:
    make_worker(front).connected()
    worker = make_worker(front, PYTHONPATH=str(site)).connected()
    with front.client() as client:
        eventually(lambda: known(client).get("hello"), "the type is known", 10)
        worker.end(signal.SIGTERM)
        run_id = client.post("/runs", json={"type": "hello"}).json()["id"]
        (reason,) = client.get(f"/runs/{run_id}/why").json()["reasons"]
        assert reason["code"] == "no_worker"
        assert "hello" in reason["detail"]
        worker.start()
        assert final(client, run_id)["state"] == "succeeded"


def test_a_broken_plugin_and_a_taken_name_stop_no_worker(front: Server, make_worker: Make, tmp_path: Path) -> None:
    place = tmp_path / "planted"
    plant(place, "broken", "raise RuntimeError('out of order')")
    taken = "class Mine(TaskType):\n    name = 'shell'\n    class Params(BaseModel): pass\n"
    taken += (
        "    async def run(self, context, params): return 'mine'\n@hookimpl\ndef taskman_task_types(): return [Mine()]"
    )
    plant(place, "taken", HEAD + taken)
    worker = make_worker(front, PYTHONPATH=str(place)).connected()
    with front.client() as client:
        run = final(client, submit(client, "echo ours"))
        assert (run["state"], run["result"]["exit_code"]) == ("succeeded", 0)
    assert "the plugin 'broken' cannot be used" in worker.errors()
    assert "the plugin 'taken' cannot be used" in worker.errors()
