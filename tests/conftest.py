"""Fixtures for every test that wants a real Redis or a real server."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from harness import Server, eventually

from taskman.store.embedded import EmbeddedRedis, find_redis_binary
from taskman.store.store import Store

# A shell starts what it puts into the background with Ctrl-C ignored, which every child of ours would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers; whatever still runs at the end of the test is killed."""
    made: list[Server] = []

    def make(name: str = "data", *options: str, **more: Any) -> Server:
        server = Server(tmp_path / name, *options, **more)
        made.append(server)
        return server.start()

    yield make
    for server in made:
        if server.process is not None:
            server.kill_tree()


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    """A running server."""
    return make_server()


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., tuple[str, subprocess.Popen[bytes]]]]:
    """Start Redis servers of other people: on a unix socket, with options of the test's choice."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> tuple[str, subprocess.Popen[bytes]]:
        directory = tmp_path / f"redis-{len(started)}"
        directory.mkdir()
        path = directory / "redis.sock"
        fixed = ["--port", "0", "--unixsocket", str(path), "--dir", str(directory), "--save", ""]
        started.append(subprocess.Popen([str(find_redis_binary()), *fixed, *options], stdout=subprocess.DEVNULL))
        eventually(lambda: _answers(path))
        return f"unix://{path}", started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def _answers(path: Path) -> bool:
    """Whether a Redis listens there; its socket exists a moment before."""
    with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
        probe.connect(str(path))
        return True
    return False


@pytest.fixture
async def redis_url(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a fresh embedded Redis."""
    async with EmbeddedRedis(tmp_path / "redis") as redis:
        yield redis.url


@pytest.fixture
async def store(redis_url: str, nursery: trio.Nursery) -> Store:
    """A store on a fresh Redis."""
    store = Store(redis_url)
    await nursery.start(store.run)
    return store
