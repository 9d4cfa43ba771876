"""The server that the protocol is tested against: any, by TASKMAN_TEST_SERVER and TASKMAN_TEST_TOKEN, or our own."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec
import pytest
import trio
import trio_websocket
from harness import Server

from taskman.errors import sole

WITHIN_S = 20.0


@dataclass
class Target:
    """A server, and a queue of its own for each test, so that nobody else's workers take part."""

    url: str
    token: str
    queue: str

    def client(self) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx2.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=30, trust_env=False)

    def submit(self, command: str = "true", **options: Any) -> str:
        body = {"type": "shell", "params": {"command": command}, "queue": self.queue, **options}
        with self.client() as client:
            reply = client.post("/runs", json=body)
        assert reply.status_code == 201, reply.text
        return str(reply.json()["id"])

    def run(self, run_id: str) -> dict[str, Any]:
        with self.client() as client:
            return client.get(f"/runs/{run_id}").json()  # type: ignore[no-any-return]

    def log(self, run_id: str) -> str:
        with self.client() as client:
            return client.get(f"/runs/{run_id}/log", headers={"Accept": "text/plain"}).text

    def post(self, path: str) -> int:
        with self.client() as client:
            return client.post(path).status_code


class Conversation:
    """One connection, in plain messages."""

    def __init__(self, connection: trio_websocket.WebSocketConnection) -> None:
        self.connection = connection
        self.heard: list[dict[str, Any]] = []

    async def say(self, *messages: dict[str, Any]) -> None:
        await self.connection.send_message(msgspec.msgpack.encode(messages))

    async def send_bytes(self, data: bytes | str) -> None:
        await self.connection.send_message(data)

    async def hear(self, kind: str) -> dict[str, Any]:
        """The next message of that kind; those before it are forgotten."""
        with trio.fail_after(WITHIN_S):
            while True:
                while self.heard:
                    message = self.heard.pop(0)
                    if message["m"] == kind:
                        return message
                self.heard += msgspec.msgpack.decode(await self.connection.get_message())

    async def closed(self) -> int:
        """The code with which the server closes."""
        with trio.fail_after(WITHIN_S):
            try:
                while True:
                    self.heard += msgspec.msgpack.decode(await self.connection.get_message())
            except trio_websocket.ConnectionClosed as error:
                return error.reason.code if error.reason else 1006


Connect = Callable[..., AbstractAsyncContextManager[Conversation]]


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The URL of the server under test, and a token for it."""
    if url := os.environ.get("TASKMAN_TEST_SERVER"):
        yield url.rstrip("/"), os.environ["TASKMAN_TEST_TOKEN"]
        return
    server = Server(tmp_path_factory.mktemp("conformance") / "data", "--workers", "0").start()
    yield server.url, server.token
    assert server.stop() == 0


@pytest.fixture
def target(address: tuple[str, str]) -> Target:
    return Target(*address, f"conformance-{secrets.token_hex(4)}")


@pytest.fixture
def hello(target: Target) -> dict[str, Any]:
    """A greeting that serves the queue of this test alone."""
    worker_id = f"conformance-{secrets.token_hex(4)}"
    return {"m": "hello", "id": worker_id, "slots": 4, "types": {"shell": "1.0"}, "queues": [target.queue], "held": []}


@pytest.fixture
def connect(target: Target) -> Connect:
    @asynccontextmanager
    async def opened(
        *greeting: dict[str, Any], token: str | None = None, subprotocol: str = "taskman.v1", **headers: str
    ) -> AsyncIterator[Conversation]:
        given = [(b"Authorization", f"Bearer {token or target.token}".encode())]
        given += [(name.encode(), value.encode()) for name, value in headers.items()]
        parts = urlsplit(target.url)
        stream = await trio.open_tcp_stream(parts.hostname or "", parts.port or 80)
        try:
            async with trio.open_nursery() as nursery:
                connection = await trio_websocket.wrap_client_stream(
                    nursery,
                    stream,
                    parts.netloc,
                    "/api/v1/worker",
                    subprotocols=[subprotocol],
                    extra_headers=given,
                )
                conversation = Conversation(connection)
                if greeting:
                    await conversation.say(*greeting)
                yield conversation
                with trio.move_on_after(2):
                    await connection.aclose()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise sole(group) from None
        finally:
            await trio.aclose_forcefully(stream)

    return opened
