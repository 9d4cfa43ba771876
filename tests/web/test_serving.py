"""The contract of our serving with Hypercorn and Quart-Trio: fails loudly when one of them changes."""

import gc
import logging
import os
import socket
import struct
from contextlib import asynccontextmanager, suppress

import httpx2
import pytest
import trio
from hypercorn.utils import LifespanFailureError
from quart import websocket
from quart_trio import QuartTrio
from trio.testing import wait_all_tasks_blocked

from taskman.config import Address
from taskman.errors import ConfigError
from taskman.web.connection import Limits
from taskman.web.drain import Drain
from taskman.web.listening import bound_urls, open_sockets
from taskman.web.serving import serve, settle_garbage_collector
from taskman.web.sse import Broadcast, respond

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


async def test_client_that_stops_reading_does_not_hold_up_the_drain():
    async with running(App(), grace_s=0.2) as server:
        stream = await server.stall()
        with trio.fail_after(3):
            server.drain.start()
            await server.ended.wait()
        with pytest.raises(trio.BrokenResourceError):
            await rest_of(stream)


async def test_client_that_stops_reading_does_not_hold_up_cancellation():
    with trio.fail_after(3):
        async with running(App()) as server:
            await server.stall()


async def test_client_that_stops_reading_is_reset_after_the_write_limit():
    app = App()
    async with running(app, limits=Limits(write_s=0.2)) as server:
        stream = await server.stall()
        await app.left.wait()
        with pytest.raises(trio.BrokenResourceError):
            await rest_of(stream)


async def test_idle_connection_is_closed_after_the_keep_alive_time():
    async with running(App(), limits=Limits(keep_alive_s=0.3)) as server:
        stream = await server.connect(get())
        assert (await rest_of(stream)).endswith(b"hello")


async def test_connection_is_kept_for_the_next_request():
    async with running(App()) as server:
        stream = await server.connect()
        for _ in range(3):
            await stream.send_all(get().encode())
            assert (await until(stream, b"hello")).startswith(b"HTTP/1.1 200")


async def test_pipelined_requests_are_answered_in_order():
    async with running(App()) as server:
        answers = await server.ask(get() + get("/missing") + get("/", "Connection: close"))
        assert [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200"]


@pytest.mark.parametrize("path", ["/", "/missing"])
async def test_connection_close_is_honoured(path):
    async with running(App()) as server:
        assert (await server.ask(get(path, "Connection: close"))).startswith(b"HTTP/1.1 ")


async def test_head_and_body_arrive_in_one_piece():
    async with running(App()) as server:
        stream = await server.connect(get())
        await wait_all_tasks_blocked(0.05)
        assert (await stream.receive_some(65536)).endswith(b"\r\n\r\nhello")


async def test_head_of_an_endless_answer_is_answered():
    async with running(App()) as server:
        stream = await server.connect(get("/endless").replace("GET", "HEAD"))
        assert (await until(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_hundred_streams_end_properly_when_the_drain_starts():
    hub, app = Broadcast(), App()
    async with running(app, grace_s=8) as server:

        @app.get("/events")
        async def events():
            return await respond(hub.subscribe(), server.drain)

        streams = [await server.connect(get("/events")) for _ in range(100)]
        for stream in streams:
            await until(stream, b": taskman")
        with trio.fail_after(4):
            server.drain.start()
            await server.ended.wait()
        for stream in streams:
            last = await rest_of(stream)
            assert b"retry: " in last
            assert last.endswith(b"\r\n0\r\n\r\n")
        assert len(hub) == 0


async def test_slow_request_may_finish_within_the_grace():
    app = App()
    async with running(app, grace_s=8) as server:
        stream = await server.connect(get("/slow"))
        await app.asked.wait()
        server.drain.start()
        await wait_all_tasks_blocked()
        app.may_answer.set()
        assert (await rest_of(stream)).endswith(b"at last")
        await server.ended.wait()


async def test_request_that_outlasts_the_grace_is_cancelled():
    app = App()
    async with running(app, grace_s=0.1) as server:
        await server.connect(get("/slow"))
        await app.asked.wait()
        server.drain.start()
        await server.ended.wait()
        assert app.left.is_set()


async def test_idle_and_silent_connections_do_not_use_up_the_grace():
    async with running(App(), grace_s=60) as server:
        silent, idle = await server.connect(), await server.connect(get())
        await until(idle, b"hello")
        server.drain.start()
        await server.ended.wait()
        assert await rest_of(silent) == await rest_of(idle) == b""


async def test_nothing_is_accepted_once_the_drain_has_started():
    async with running(App()) as server:
        server.drain.start()
        await server.ended.wait()
        with pytest.raises(OSError, match="connect"):
            await server.connect()


async def test_client_that_resets_ends_its_request():
    app = App()
    async with running(app) as server:
        stream = await server.connect(get("/slow"))
        await app.asked.wait()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()
        await app.left.wait()


@pytest.mark.parametrize("beginning", ["", "GET / HTTP/1.1\r\nHost: loc"])
async def test_slow_head_is_closed(beginning):
    async with running(App(), limits=Limits(head_s=0.2)) as server:
        assert await server.ask(beginning) == b""


async def test_slow_head_of_a_second_request_is_closed():
    async with running(App(), limits=Limits(head_s=0.2)) as server:
        stream = await server.connect(get())
        await until(stream, b"hello")
        await stream.send_all(b"GET")
        assert await rest_of(stream) == b""


async def test_dripping_head_does_not_extend_its_time():
    async with running(App(), limits=Limits(head_s=0.3)) as server:
        stream = await server.connect(get().removesuffix("\r\n"))
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"X-More: 1\r\n")
                with trio.move_on_after(0.05):
                    await stream.receive_some(1)


async def test_too_large_head_is_refused():
    async with running(App()) as server:
        assert (await server.ask(get("/", "X: " + "a" * 200_000))).startswith(b"HTTP/1.1 431")


async def upload(stream):
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.send_all(b"a" * 16_000_000)


@pytest.mark.parametrize("at_once", [True, False])
async def test_refused_upload_sees_the_answer(at_once, nursery):
    may_answer = trio.Event()

    async def refuse(receive, send):
        await may_answer.wait()
        await start(send, (b"content-length", b"9"), status=413)
        await send({"type": "http.response.body", "body": b"too large"})

    async with running(bare(refuse)) as server:
        stream = await server.connect("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n\r\n")
        nursery.start_soon(upload, stream)
        if not at_once:  # by now all that may wait for the app to read it does wait
            await wait_all_tasks_blocked(0.05)
        may_answer.set()
        assert (await rest_of(stream)).endswith(b"too large")


async def test_prior_knowledge_http2_is_refused():
    async with running(App()) as server:
        preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
        assert (await server.ask(preface)).startswith(b"HTTP/1.1 505 ")


async def test_upgrade_to_cleartext_http2_is_ignored():
    upgrade = ("Connection: close, Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
    async with running(App()) as server:
        received = await server.ask(get("/", *upgrade))
        assert received.startswith(b"HTTP/1.1 200 ")
        assert received.endswith(b"hello")


@pytest.mark.parametrize(
    "faulty",
    [
        get("/", "Host: other"),
        get().replace("Host: localhost\r\n", ""),
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        get("/echo", *HANDSHAKE[:3]),
        get("/caf\xc3\xa9"),
        get("/echo", *HANDSHAKE, "Sec-WebSocket-Protocol: caf\xc3\xa9"),
        "\x16\x03\x01 this is TLS\r\n\r\n",
    ],
)
async def test_malformed_request_is_refused_and_the_connection_closed(faulty):
    async with running(App()) as server:
        assert (await server.ask(faulty)).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("at_once", [True, False])
async def test_websocket_data_before_the_answer_leaves_nothing_behind(at_once, caplog):
    begun, left = trio.Event(), trio.Event()

    async def app(scope, receive, send):
        if scope["type"] != "lifespan":
            begun.set()
            while (await receive())["type"] != "websocket.disconnect":
                pass
            await send({"type": "websocket.accept"})
            left.set()

    async with running(app) as server:
        early = "\x81\x01a"
        stream = await server.connect(get("/echo", *HANDSHAKE) + (early if at_once else ""))
        await begun.wait()
        if not at_once:
            await stream.send_all(early.encode("latin-1"))
        assert await rest_of(stream) == b""
        await left.wait()
    assert not caplog.records


async def test_websocket_echoes_and_notices_that_its_client_left():
    app = App()
    async with running(app) as server:
        stream = await server.connect(get("/echo", *HANDSHAKE))
        assert (await until(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        await stream.send_all(b"\x81\x82\0\0\0\0hi")
        assert await until(stream, b"hi") == b"\x81\x02hi"
        await stream.aclose()
        await app.left.wait()


async def test_websocket_whose_message_was_cut_is_reset():
    cut = trio.Event()

    async def app(scope, receive, send):
        if scope["type"] != "lifespan":
            await send({"type": "websocket.accept"})
            with trio.move_on_after(0.1):
                await send({"type": "websocket.send", "bytes": b"x" * 16_000_000})
            cut.set()

    async with running(app) as server:
        stream = await server.connect(get("/", *HANDSHAKE))
        await until(stream, b"xxx")
        await cut.wait()
        with pytest.raises(trio.BrokenResourceError):
            await rest_of(stream)


async def test_data_after_a_websocket_is_closed_hurts_nobody_else():
    async with running(App()) as server:
        stream = await server.connect(get("/echo", *HANDSHAKE))
        await until(stream, b"\r\n\r\n")
        await stream.send_all(b"\x88\x82\0\0\0\0\x03\xe8" + b"\x81\x81\0\0\0\0a")
        await rest_of(stream)
        assert (await server.ask(get("/", "Connection: close"))).endswith(b"hello")


async def test_app_that_fails_midway_is_logged_and_its_answer_reset(caplog):
    async def half(receive, send):
        await start(send, (b"content-length", b"10"))
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("the other half is missing")

    async with running(bare(half)) as server:
        stream = await server.connect(get())
        with pytest.raises(trio.BrokenResourceError):
            await rest_of(stream)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("taskman.web", logging.ERROR)
    assert "the other half is missing" in str(record.exc_info[1])


async def test_crash_in_the_app_nursery_is_logged(caplog):
    app = App()

    async def crash():
        raise RuntimeError("a background task broke")

    async with running(app) as server:
        app.nursery.start_soon(crash)
        assert (await server.ask(get("/", "Connection: close"))).endswith(b"hello")
    assert [str(record.exc_info[1]) for record in caplog.records] == ["a background task broke"]


async def test_app_that_cannot_start_is_reported_and_its_sockets_are_closed():
    app = App()

    @app.before_serving
    async def fail():
        raise RuntimeError("no templates")

    sockets = open_sockets([Address("127.0.0.1", 0)])
    with pytest.RaisesGroup(pytest.RaisesExc(LifespanFailureError, match="no templates"), flatten_subgroups=True):
        await serve(app, sockets, Drain())
    assert sockets[0].fileno() == -1


async def test_answers_do_not_name_the_server():
    async with running(App()) as server, httpx2.AsyncClient() as client:
        assert "server" not in (await client.get(server.url)).headers


def test_taken_port_is_named_with_its_remedies():
    (sock,) = open_sockets([Address("127.0.0.1", 0)])
    with sock:
        port = sock.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            open_sockets([Address("127.0.0.1", port)])
    assert str(caught.value) == (
        f"port {port} on 127.0.0.1 is in use (Address already in use): stop the other server, "
        "or choose another with --port N / TASKMAN_BIND"
    )


def test_sockets_opened_before_a_failure_are_closed():
    (probe,) = open_sockets([Address("127.0.0.1", 0)])
    free = probe.getsockname()[1]
    probe.close()
    with pytest.raises(ConfigError, match="no address of this machine"):
        open_sockets([Address("127.0.0.1", free), Address("192.0.2.1", 0)])
    for sock in open_sockets([Address("127.0.0.1", free)]):
        sock.close()


def test_forbidden_port_is_explained(monkeypatch):
    def bind(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind, raising=False)
    with pytest.raises(ConfigError, match=r"port 80 on 127\.0\.0\.1 is not allowed to this user"):
        open_sockets([Address("127.0.0.1", 80)])


def test_unknown_name_is_explained():
    with pytest.raises(ConfigError, match="cannot be resolved"):
        open_sockets([Address("no such host", 0)])


def test_sockets_are_ready_to_serve():
    sockets = open_sockets([Address("127.0.0.1", 0), Address("0.0.0.0", 0)])
    for sock in sockets:
        with sock:
            assert sock.gettimeout() == 0
            assert not sock.get_inheritable()
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
            assert bound_urls([sock]) == [f"http://127.0.0.1:{sock.getsockname()[1]}"]


def test_collector_is_settled_after_start():
    before = gc.get_threshold()
    try:
        settle_garbage_collector()
        assert gc.get_threshold() == (100_000, 50, 1000)
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


async def test_an_app_that_writes_without_end_lets_others_have_their_turn(monkeypatch):
    turns = []

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        server.nursery.start_soon(note)
        for _ in range(200):
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
        turns.append("written")

    async def note():
        turns.append("other")

    async with running(app) as server:
        stream = await server.connect()
        monkeypatch.setattr(os, "write", lambda fd, data: len(data))  # a client that is faster than we are
        await stream.send_all(get("/").encode())
        while "written" not in turns:
            await trio.sleep(0.01)
    assert turns == ["other", "written"]
