"""A server, a network between it and the client that can fail, and both clients under one name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest
import trio
from harness import Server
from network import Network

from taskman import AsyncClient, Client


class InThreads:
    """A Client as tests use an AsyncClient: each call in a thread."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name in ("logs", "runs", "tasks", "log_bytes"):
            return lambda *args, **more: Pulled(method(*args, **more))
        return lambda *args, **more: trio.to_thread.run_sync(partial(method, *args, **more))


class Pulled:
    """An iterator, as an async one."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source

    def __aiter__(self) -> Pulled:
        return self

    async def __anext__(self) -> Any:
        end = object()
        item = await trio.to_thread.run_sync(next, self._source, end)
        if item is end:
            raise StopAsyncIteration
        return item


@pytest.fixture
def network(server: Server) -> Iterator[Network]:
    """The way to the server."""
    network = Network(server.url)
    yield network
    network.close()


@pytest.fixture(params=["Client", "AsyncClient"])
async def client(request: pytest.FixtureRequest, server: Server, network: Network) -> AsyncIterator[Any]:
    """One of the two clients, over the network that can fail."""
    if request.param == "Client":
        with Client(network.url, server.token, patience_s=20) as plain:
            yield InThreads(plain)
    else:
        async with AsyncClient(network.url, server.token, patience_s=20) as found:
            yield found
