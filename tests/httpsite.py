"""A web server for tests, on real sockets: answers bytes as a test writes them, and keeps what it was sent."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h11
import trio


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Handler = Callable[[Request, trio.abc.Stream], Awaitable[None]]


def reply(status: int = 200, body: bytes = b"", **headers: str) -> bytes:
    """An answer with its length; `content_type` becomes content-type."""
    lines = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@dataclass
class Site:
    """Answers each path with fixed bytes, or as a handler does; `requests` are those that came."""

    answers: dict[str, bytes | Handler] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    port: int = 0
    scheme: str = "http"
    connections: int = 0
    closed: trio.Event = field(default_factory=trio.Event)

    async def run(
        self, context: ssl.SSLContext | None = None, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve on a free port of 127.0.0.1 until cancelled; with TLS when there is a context."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        served: list[Any] = list(listeners)
        if context is not None:
            self.scheme = "https"
            served = [trio.SSLListener(one, context, https_compatible=True) for one in listeners]
        async with trio.open_nursery() as nursery:
            task_status.started()
            await trio.serve_listeners(self._serve, served, handler_nursery=nursery)

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    async def _serve(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        try:
            request = await _read(stream)
            if request is not None:
                self.requests.append(request)
                answer = self.answers.get(request.target.partition("?")[0], reply(404))
                await (stream.send_all(answer) if isinstance(answer, bytes) else answer(request, stream))
        except (trio.BrokenResourceError, ssl.SSLError, h11.RemoteProtocolError):
            pass
        finally:
            self.closed.set()
            await trio.aclose_forcefully(stream)


async def _read(stream: trio.abc.Stream) -> Request | None:
    peer, head, body = h11.Connection(h11.SERVER), None, b""
    while True:
        event = peer.next_event()
        if event is h11.NEED_DATA:
            peer.receive_data(await stream.receive_some(65536))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif head is None:
            return None
        else:
            headers = {name.decode(): value.decode() for name, value in head.headers}
            return Request(head.method.decode(), head.target.decode(), headers, body)


async def until_closed(request: Request, stream: trio.abc.Stream) -> None:
    """Answer nothing; return when the client has gone."""
    while await stream.receive_some(1):
        pass


def make_certificate(path: Path, name: str = "localhost") -> Path:
    """A self-signed certificate for `name` with its key, in one file."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=taskman-test"
    names = ["-addext", f"subjectAltName=DNS:{name}"]
    key, certificate = path.with_suffix(".key"), path.with_suffix(".crt")
    subprocess.run([*command.split(), *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    path.write_bytes(key.read_bytes() + certificate.read_bytes())
    return path
