"""Servers with remote workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from harness import Server, eventually
from remote_workers import WorkerProcess

FINAL = ("succeeded", "failed", "cancelled", "skipped")


@pytest.fixture
def front(make_server: Callable[..., Server]) -> Server:
    """A server without a worker of its own."""
    return make_server("data", "--workers", "0")


@pytest.fixture
def make_worker(tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Start remote workers; whatever still runs at the end of the test is killed."""
    made: list[WorkerProcess] = []

    def make(
        server: Server, *options: str, url: str | None = None, token: str | None = None, **environment: str
    ) -> WorkerProcess:
        directory = tmp_path / f"worker-{len(made)}"
        made.append(WorkerProcess(directory, url or server.url, token or server.token, *options, **environment))
        return made[-1].start()

    yield make
    for worker in made:
        if worker.process is not None:
            worker.kill_tree()


def submit(client: httpx2.Client, command: str, **options: Any) -> str:
    """The id of a new shell run."""
    reply = client.post("/runs", json={"type": "shell", "params": {"command": command}, **options})
    assert reply.status_code == 201, reply.text
    return str(reply.json()["id"])


def final(client: httpx2.Client, run_id: str, within_s: float = 30.0) -> dict[str, Any]:
    """The run once it is final."""

    def found() -> dict[str, Any] | None:
        run = client.get(f"/runs/{run_id}").json()
        return run if run["state"] in FINAL else None

    return eventually(found, f"{run_id} ends", within_s)  # type: ignore[no-any-return]


def log_of(client: httpx2.Client, run_id: str) -> str:
    return client.get(f"/runs/{run_id}/log", headers={"Accept": "text/plain"}).text


def state_of(client: httpx2.Client, run_id: str) -> str:
    return str(client.get(f"/runs/{run_id}").json()["state"])
