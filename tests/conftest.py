"""Fixtures for every test that wants a real Redis or a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from harness import Server

from taskman.store.embedded import EmbeddedRedis
from taskman.store.store import Store


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
