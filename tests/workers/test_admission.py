"""Who may connect as which worker, and what an operator sees when somebody may not."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from harness import Server, eventually
from remote_workers import WorkerProcess
from workers.conftest import final, submit

Make = Callable[..., WorkerProcess]


def token_of(server: Server, scope: str) -> dict[str, Any]:
    with server.client() as client:
        reply = client.post("/tokens", json={"name": f"for-{scope}", "scope": scope})
    assert reply.status_code == 201, reply.text
    return reply.json()  # type: ignore[no-any-return]


def attempt(server: Server, directory: Path, token: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A worker that is expected to give up by itself."""
    command = [sys.executable, "-P", "-m", "taskman", "worker", "--server", server.url, "--token", token, *options]
    return subprocess.run(
        [*command, "--data-dir", str(directory)], capture_output=True, text=True, timeout=30, env=server.environment
    )


def test_an_unknown_token_ends_the_worker_with_what_to_do(front: Server, tmp_path: Path) -> None:
    ended = attempt(front, tmp_path / "w", "tm_this-is-not-a-token-of-this-server")
    assert ended.returncode == 4
    assert "check TASKMAN_TOKEN" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("scope", ["read", "run", "write"])
def test_a_token_for_something_else_ends_the_worker(front: Server, tmp_path: Path, scope: str) -> None:
    ended = attempt(front, tmp_path / "w", token_of(front, scope)["token"])
    assert ended.returncode == 4
    assert "needs the scope 'worker'" in ended.stderr


class Stranger(BaseHTTPRequestHandler):
    """Some other web server."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nobody needs to know."""


def test_an_address_that_is_no_taskman_server_ends_the_worker(front: Server, tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        threading.Thread(target=stranger.serve_forever).start()
        front.url = f"http://127.0.0.1:{stranger.server_port}"
        ended = attempt(front, tmp_path / "w", front.token)
        stranger.shutdown()
    assert ended.returncode == 1
    assert "not as Taskman does" in ended.stderr


def test_a_task_type_that_is_not_installed_ends_the_worker(front: Server, tmp_path: Path) -> None:
    ended = attempt(front, tmp_path / "w", front.token, "--type", "shel")
    assert ended.returncode == 1
    assert "did you mean 'shell'" in ended.stderr


def test_a_worker_token_executes_runs_until_it_is_revoked(front: Server, make_worker: Make) -> None:
    token = token_of(front, "worker")
    worker = make_worker(front, token=token["token"]).connected()
    with front.client() as client:
        assert final(client, submit(client, "true"))["state"] == "succeeded"
        client.delete(f"/tokens/{token['id']}")
        eventually(lambda: "valid no more" in worker.errors(), "its connection is ended")
        eventually(lambda: "trying again in" in worker.errors(), "it goes on trying, slowly, and says so")
        assert worker.process is not None
        assert worker.process.poll() is None


def test_the_id_of_a_live_worker_belongs_to_its_token(front: Server, make_worker: Make, tmp_path: Path) -> None:
    worker = make_worker(front).connected()
    thief = tmp_path / "thief"
    (thief / "workers").mkdir(parents=True)
    (thief / "workers" / "worker-0").write_text(worker.id)
    ended = attempt(front, thief, token_of(front, "worker")["token"])
    assert ended.returncode == 5
    assert f"'{worker.id}' belongs to a worker that is there" in ended.stderr
    with front.client() as client:
        assert final(client, submit(client, "true"))["worker"] == worker.id
    assert worker.disconnections() == 0
