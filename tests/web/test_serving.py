"""The contract of our serving with Hypercorn and Quart-Trio: fails loudly when one of them changes."""

import gc
import logging
import os

import httpx2
import pytest
import trio
from hypercorn.utils import LifespanFailureError
from trio.testing import wait_all_tasks_blocked
from web.serving import App, bare, get, rest_of, running, start, until

from taskman.config import Address
from taskman.web.connection import Limits
from taskman.web.drain import Drain
from taskman.web.listening import open_sockets
from taskman.web.serving import serve, settle_garbage_collector
from taskman.web.sse import Broadcast, respond


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
