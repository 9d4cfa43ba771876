"""Clients that go away, dawdle, or say what is no HTTP; and what else they may ask a connection to become."""

import socket
import struct
from contextlib import suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from web.serving import HANDSHAKE, App, bare, get, rest_of, running, start, until

from taskman.web.connection import Limits


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
