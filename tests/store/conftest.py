"""A real Redis for every test: embedded, or one that a test may kill, stop and start again."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio

from taskman.store.connection import Connection
from taskman.store.embedded import find_redis_binary


class RedisServer:
    """A Redis on a unix socket (and a TCP port, if `port` is given) that does not end by itself."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> RedisServer:
        self._spawn()
        await until(self._accepts)
        return self

    def _spawn(self) -> None:
        here = ["--dir", str(self.directory), "--unixsocket", str(self.socket), "--port", "0", "--save", ""]
        self._process = subprocess.Popen([str(find_redis_binary()), *here, *self._options], stdout=subprocess.DEVNULL)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _accepts(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "Redis ended at once"
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0


class Proxy:
    """Stands between client and Redis: passes the replies on only as far as the test allows, or with TLS."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.port = 0
        self.passed = 0
        self.allowance: float = float("inf")
        self._changed = trio.Event()

    def allow(self, more_bytes: float) -> None:
        """Pass on so many more bytes of replies than until now."""
        self.allowance = self.passed + more_bytes
        self._changed.set()
        self._changed = trio.Event()

    async def run(
        self, tls: ssl.SSLContext | None, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        encrypted = [trio.SSLListener(one, tls, https_compatible=True) for one in listeners] if tls else listeners
        task_status.started()
        await trio.serve_listeners(self._carry, encrypted)

    async def _carry(self, client: trio.abc.Stream) -> None:
        try:
            async with await trio.open_unix_socket(str(self.server.socket)) as redis, trio.open_nursery() as nursery:
                nursery.start_soon(self._reply, redis, client)
                async for data in client:
                    await redis.send_all(data)
                nursery.cancel_scope.cancel()
        except* (OSError, trio.BrokenResourceError):
            pass  # a client that did not like the certificate
        finally:
            await trio.aclose_forcefully(client)

    async def _reply(self, redis: trio.abc.ReceiveStream, client: trio.abc.SendStream) -> None:
        async for data in redis:
            while data:
                while self.allowance <= self.passed:
                    await self._changed.wait()
                portion = data[: int(min(len(data), self.allowance - self.passed))]
                await client.send_all(portion)
                self.passed += len(portion)
                data = data[len(portion) :]


async def until(condition: Callable[[], object]) -> None:
    """Wait for a state that nobody announces; pytest-timeout ends what never comes."""
    while not condition():
        await trio.sleep(0.005)


@pytest.fixture(name="until")
def until_fixture() -> Callable[[Callable[[], object]], Awaitable[None]]:
    return until


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[Callable[..., Awaitable[RedisServer]]]:
    """Starts Redis servers with options of the test's choice; they are killed at the end."""
    servers: list[RedisServer] = []

    async def start(*options: str, directory: Path | None = None) -> RedisServer:
        server = RedisServer(directory or tmp_path, *options)
        servers.append(server)
        return await server.start()

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
async def server(new_server: Callable[..., Awaitable[RedisServer]]) -> RedisServer:
    """One Redis server that the test may kill, pause and start again."""
    return await new_server()


@pytest.fixture
async def proxy(server: RedisServer, nursery: trio.Nursery) -> Proxy:
    """A proxy in front of `server`; its `port` is on 127.0.0.1."""
    proxy = Proxy(server)
    await nursery.start(proxy.run, None)
    return proxy


@pytest.fixture
async def tls_proxy(server: RedisServer, nursery: trio.Nursery, certificate: Path) -> Proxy:
    """The same, speaking TLS with `certificate`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    proxy = Proxy(server)
    await nursery.start(proxy.run, context)
    return proxy


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for localhost with its key, in one file."""
    path = tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=redis"
    names = ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        [*command.split(), *names, "-keyout", path, "-out", path.with_suffix(".crt")],
        check=True,
        capture_output=True,
    )
    path.write_bytes(path.read_bytes() + path.with_suffix(".crt").read_bytes())
    return path


@pytest.fixture
def connect(nursery: trio.Nursery) -> Callable[..., Awaitable[Connection]]:
    """Opens connections that close at the end of the test."""

    async def connect(url: str, **options: float) -> Connection:
        connection = Connection(url, **options)
        await nursery.start(connection.run)
        return connection

    return connect
