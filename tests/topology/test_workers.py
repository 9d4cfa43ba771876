"""Worker nodes behind the balancer, as docker-compose.yml starts them: they outlive the servers that they talk to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import eventually
from topology.following import run_of
from topology.site import ENDS, End, Site, haproxy
from topology.submitting import Submitter, finished


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two servers that execute nothing, and two worker nodes."""
    haproxy()
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        site.start(2)
        for _ in range(2):
            site.add_worker()
        eventually(lambda: len(workers(site)) == 2, "both workers are there")
        yield site
    finally:
        site.close()


def workers(site: Site) -> list[dict[str, Any]]:
    """The workers that the servers know."""
    with site.client() as http:
        items: list[dict[str, Any]] = http.get("/workers").json()["items"]
    return items


def test_runs_are_executed_by_the_worker_nodes_alone(site: Site) -> None:
    nodes = {worker["id"] for worker in workers(site)}
    runs = [run_of(site, "echo hello") for _ in range(20)]
    found = finished(site, runs)
    assert {run["state"] for run in found} == {"succeeded"}
    assert {run["worker"] for run in found} <= nodes


def test_the_token_of_the_workers_opens_nothing_else(site: Site) -> None:
    with site.client(token=site.worker_token) as http:
        assert http.get("/runs").status_code == 403
        assert http.post("/runs", json={"type": "shell", "params": {"command": "true"}}).status_code == 403


@pytest.mark.parametrize("end", ENDS)
def test_an_attempt_outlives_both_servers_one_after_the_other(site: Site, tmp_path: Path, end: End) -> None:
    go = tmp_path / "go"
    run = run_of(site, f"echo begun; while [ ! -e {go} ]; do sleep 0.05; done; echo ended")
    with site.client() as http:
        eventually(lambda: http.get(f"/runs/{run}").json()["state"] == "running")
    for server in site.servers:
        end(server)
        assert finished(site, [run_of(site, "true")])[0]["state"] == "succeeded"
        server.start()
        site.until_all_serve()
    go.touch()
    [found] = finished(site, [run])
    assert (found["state"], len(found["attempts"])) == ("succeeded", 1)
    with site.client() as http:
        assert http.get(f"/runs/{run}/log", headers={"Accept": "text/plain"}).text == "begun\nended\n"


@pytest.mark.parametrize("end", ENDS)
def test_runs_submitted_through_the_end_of_a_server_are_executed_once(site: Site, tmp_path: Path, end: End) -> None:
    mark = tmp_path / "mark"
    submitter = Submitter(site, tmp_path.name, mark)
    submitter.start()
    submitter.until_more(20)
    end(site.servers[0])
    submitter.until_more(20)
    submitter.finish()
    assert {run["state"] for run in finished(site, submitter.acknowledged.values())} == {"succeeded"}
    assert sorted(mark.read_text().split()) == sorted(submitter.acknowledged), "each once, and no other"


def test_a_worker_node_that_is_stopped_lets_its_run_finish(site: Site, tmp_path: Path) -> None:
    go = tmp_path / "go"
    third = site.add_worker("--label", "node=third")
    run = run_of(site, f"while [ ! -e {go} ]; do sleep 0.05; done", requires={"node": "third"})
    with site.client() as http:
        eventually(lambda: http.get(f"/runs/{run}").json()["state"] == "running")
    assert third.process is not None
    third.process.terminate()
    eventually(lambda: "what runs may finish" in third.log.read_text(), "it has been told to stop")
    assert third.process.poll() is None
    go.touch()
    assert third.process.wait(30) == 0
    [found] = finished(site, [run])
    assert (found["state"], len(found["attempts"])) == ("succeeded", 1)
