"""A server in this process to test with, and how to speak to it."""

import socket
from contextlib import asynccontextmanager

import trio
from quart import websocket
from quart_trio import QuartTrio
from trio.testing import wait_all_tasks_blocked

from taskman.config import Address
from taskman.web.connection import Limits
from taskman.web.drain import Drain
from taskman.web.listening import bound_urls, open_sockets
from taskman.web.serving import serve

LIMITS = Limits(linger_s=0.5)
HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)


class Running:
    """A server under test, and how to speak to it."""

    def __init__(self, nursery, drain, url):
        self.nursery, self.drain, self.url = nursery, drain, url
        self.ended = trio.Event()
        self.clients = []

    async def connect(self, text=""):
        stream = await trio.open_tcp_stream("127.0.0.1", int(self.url.rpartition(":")[2]))
        self.clients.append(stream)
        await stream.send_all(text.encode("latin-1"))
        return stream

    async def ask(self, text):
        """All that the server says to `text` until it closes the connection."""
        return await rest_of(await self.connect(text))

    async def stall(self):
        """A client that asks for an endless answer and reads none of it, once the server cannot write more."""
        stream = await self.connect()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await stream.send_all(get("/endless").encode())
        await until(stream, b"xxx")
        await wait_all_tasks_blocked(0.05)
        return stream


@asynccontextmanager
async def running(app, *, grace_s=0.5, limits=LIMITS, within=20):
    async def run(task_status):
        await serve(app, sockets, server.drain, grace_s=grace_s, limits=limits, task_status=task_status)
        server.ended.set()

    sockets = open_sockets([Address("127.0.0.1", 0)])
    with trio.fail_after(within):
        async with trio.open_nursery() as nursery:
            server = Running(nursery, Drain(), bound_urls(sockets)[0])
            await nursery.start(run)
            yield server
            nursery.cancel_scope.cancel()
    for client in server.clients:
        client.socket.close()


def get(path="/", *headers):
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""))


async def rest_of(stream):
    received = b""
    while data := await stream.receive_some(65536):
        received += data
    return received


async def until(stream, text):
    received = b""
    while text not in received:
        data = await stream.receive_some(65536)
        assert data, received
        received += data
    return received


class App(QuartTrio):
    """A Quart-Trio app with an answer of every kind."""

    def __init__(self):
        super().__init__(__name__)
        self.asked, self.may_answer, self.left = trio.Event(), trio.Event(), trio.Event()
        self.get("/")(self.hello)
        self.get("/slow")(self.slow)
        self.get("/endless")(self.endless)
        self.websocket("/echo")(self.echo)

    async def hello(self):
        return "hello"

    async def slow(self):
        self.asked.set()
        try:
            await self.may_answer.wait()
        finally:
            self.left.set()
        return "at last"

    async def endless(self):
        async def chunks():
            try:
                while True:
                    yield b"x" * 65536
                    await trio.lowlevel.checkpoint()
            finally:
                self.left.set()

        return chunks()

    async def echo(self):
        try:
            await websocket.accept()
            while True:
                await websocket.send(await websocket.receive())
        finally:
            self.left.set()


def bare(respond):
    """An ASGI app of nothing but `respond(receive, send)`."""

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await respond(receive, send)

    return app


async def start(send, *headers, status=200):
    await send({"type": "http.response.start", "status": status, "headers": headers})
