"""Workers that are to take nothing new, told through any server."""

from __future__ import annotations

from collections.abc import Callable

from harness import Server, eventually
from remote_workers import WorkerProcess
from workers.conftest import final, state_of, submit

Make = Callable[..., WorkerProcess]


def test_a_draining_worker_finishes_what_it_runs_and_takes_nothing_new(front: Server, make_worker: Make) -> None:
    worker = make_worker(front, "--slots", "4").connected()
    with front.client() as client:
        running = submit(client, "sleep 2; echo done")
        eventually(lambda: state_of(client, running) == "running")
        assert client.post(f"/workers/{worker.id}/drain").json()["state"] == "draining"
        eventually(lambda: "draining: the server sends nothing new" in worker.errors())
        waiting = submit(client, "true")
        assert final(client, running)["state"] == "succeeded"
        reasons = client.get(f"/runs/{waiting}/why").json()["reasons"]
        assert reasons[0]["code"] == "no_worker"
        assert "draining" in reasons[0]["detail"]
        assert client.post(f"/workers/{worker.id}/resume").json()["state"] == "online"
        assert final(client, waiting)["state"] == "succeeded"


def test_a_drain_survives_a_reconnection_to_another_server(
    front: Server, make_server: Callable[..., Server], make_worker: Make
) -> None:
    worker = make_worker(front).connected()
    with front.client() as client:
        client.post(f"/workers/{worker.id}/drain")
    port = front.url.rpartition(":")[2]
    front.stop()
    front._options = ("--workers", "0", "--port", port)
    front.start()
    worker.connected(times=2)
    with front.client() as client:
        eventually(lambda: client.get(f"/workers/{worker.id}").json()["state"] == "draining")
        run_id = submit(client, "true")
        assert state_of(client, run_id) == "queued"
        client.post(f"/workers/{worker.id}/resume")
        assert final(client, run_id)["state"] == "succeeded"


def test_the_servers_own_worker_obeys_too(server: Server) -> None:
    with server.client() as client:
        [local] = client.get("/workers").json()["items"]
        client.post(f"/workers/{local['id']}/drain")
        run_id = submit(client, "true")
        eventually(lambda: client.get(f"/runs/{run_id}/why").json()["reasons"])
        assert state_of(client, run_id) == "queued"
        client.post(f"/workers/{local['id']}/resume")
        assert final(client, run_id)["state"] == "succeeded"


def test_workers_are_shown_drained_and_resumed_on_the_command_line(front: Server, make_worker: Make) -> None:
    worker = make_worker(front, "--name", "mill", "--label", "gpu=yes", "--slots", "3").connected()
    listed = front.command("workers", "list")
    assert worker.id in listed.stdout
    assert "mill" in listed.stdout
    shown = front.command("workers", "show", worker.id).stdout
    for part in ("gpu=yes", "0 of 3", "shell 1.0", "127.0.0.1:", "online"):
        assert part in shown
    assert "is draining" in front.command("workers", "drain", "mill").stderr
    assert "draining" in front.command("workers", "list").stdout
    assert front.command("workers", "resume", worker.id).returncode == 0
    missing = front.command("workers", "show", "mil")
    assert missing.returncode == 3
    assert "did you mean 'mill'" in missing.stderr


def test_an_offline_worker_is_still_shown(front: Server, make_worker: Make) -> None:
    worker = make_worker(front).connected()
    worker.kill_tree()
    with front.client() as client:
        assert client.get(f"/workers/{worker.id}").json()["state"] in ("online", "offline")
        assert client.get("/workers/nobody").status_code == 404
