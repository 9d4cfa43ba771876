"""How events are written, streamed to one reader, and brought to many."""

import logging
import socket
import struct
from contextlib import asynccontextmanager

import pytest
import trio
from quart_trio import QuartTrio
from trio.testing import wait_all_tasks_blocked
from web.serving import until

from taskman.config import Address
from taskman.web.connection import Limits
from taskman.web.drain import Drain
from taskman.web.listening import bound_urls, open_sockets
from taskman.web.serving import serve
from taskman.web.sse import Broadcast, EventStream, encode, respond


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        ("one", b"data: one\n"),
        ("", b"data: \n"),
        ("one\ntwo", b"data: one\ndata: two\n"),
        ("one\r\ntwo\rthree\n", b"data: one\ndata: two\ndata: three\ndata: \n"),
        (" kept", b"data:  kept\n"),
        ("a\n\nevent: forged", b"data: a\ndata: \ndata: event: forged\n"),
        ("line\u2028separator\x0b", "data: line\u2028separator\x0b\n".encode()),
        (b"\xff\n\0", b"data: \xff\ndata: \0\n"),
    ],
)
def test_every_line_of_data_is_data(data, lines):
    assert encode(None, data) == lines + b"\n"


def test_event_has_its_name_and_id():
    assert encode("state", "x", "12-0") == b"event: state\nid: 12-0\ndata: x\n\n"


@pytest.mark.parametrize("forged", ["a\nb", "a\rb", "a\0b"])
def test_name_or_id_that_would_forge_a_field_is_refused(forged):
    with pytest.raises(ValueError, match="line ends"):
        encode(forged, "")
    with pytest.raises(ValueError, match="line ends"):
        encode(None, "", forged)


async def test_stream_greets_then_brings_events_then_ends():
    hub = Broadcast()
    async with EventStream(hub.subscribe(), Drain()) as stream:
        greeting = await anext(stream)
        hub.publish(b"one\n\n")
        hub.close_all()
        assert [greeting, *[block async for block in stream]] == [b": taskman\nretry: 1000\n\n", b"one\n\n"]


async def test_silence_is_filled_with_pings(autojump_clock):
    hub = Broadcast()
    async with EventStream(hub.subscribe(), Drain()) as stream:
        await anext(stream)
        began = trio.current_time()
        assert [await anext(stream), await anext(stream)] == [b": ping\n\n"] * 2
        assert trio.current_time() - began == 30
        hub.publish(b"one\n\n")
        assert await anext(stream) == b"one\n\n"


@pytest.mark.parametrize("waits", [True, False])
async def test_drain_ends_a_stream_and_spreads_the_return_of_its_reader(waits, nursery):
    hub, drain, blocks = Broadcast(), Drain(), []

    async def read():
        async with EventStream(hub.subscribe(), drain) as stream:
            blocks.extend([block async for block in stream])

    if waits:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        drain.start()
    else:
        drain.start()
        await read()
    with trio.fail_after(1):
        await wait_all_tasks_blocked()
    _, farewell = blocks
    name, _, milliseconds = farewell.partition(b": ")
    assert name == b"retry"
    assert 500 <= int(milliseconds) < 3000
    assert len(hub) == 0


async def test_cancelled_stream_leaves_the_hub_and_the_drain(nursery):
    hub, drain = Broadcast(), Drain()
    stream = EventStream(hub.subscribe(), drain)
    with trio.CancelScope() as scope:
        async with stream:
            await anext(stream)
            scope.cancel()
            await anext(stream)
    assert scope.cancelled_caught
    assert len(hub) == 0
    assert not drain._watchers


async def test_event_reaches_every_subscriber():
    hub = Broadcast()
    subscribers = [hub.subscribe() for _ in range(3)]
    hub.publish(b"one\n\n")
    assert [await each.receive() for each in subscribers] == [b"one\n\n"] * 3
    hub.close_all()
    for each in subscribers:
        with pytest.raises(trio.EndOfChannel):
            await each.receive()
        each.close()


async def test_waiting_events_are_joined_into_one_write():
    hub = Broadcast()
    subscriber = hub.subscribe()
    for _ in range(3):
        hub.publish(b"x" * 40_000)
    assert [len(await subscriber.receive()) for _ in range(2)] == [80_000, 40_000]
    subscriber.close()


async def test_reader_that_lags_is_sent_away_with_a_reset_and_the_others_stay():
    hub = Broadcast()
    slow, quick = hub.subscribe(limit=2), hub.subscribe(limit=3)
    for block in (b"1", b"2", b"3"):
        hub.publish(block)
    assert await slow.receive() == b"12"
    assert await slow.receive() == b"event: reset\ndata: \n\n"
    with pytest.raises(trio.EndOfChannel):
        await slow.receive()
    assert await quick.receive() == b"123"
    assert len(hub) == 1
    slow.close()
    quick.close()


async def test_closing_twice_does_nothing():
    hub = Broadcast()
    subscriber = hub.subscribe()
    subscriber.close()
    subscriber.close()
    hub.publish(b"nobody reads this")
    assert len(hub) == 0


@asynccontextmanager
async def streaming(hub):
    """The port of a real server that streams `hub` at /events, and its drain."""
    app, drain = QuartTrio(__name__), Drain()

    @app.get("/events")
    async def events():
        return await respond(hub.subscribe(limit=4), drain)

    sockets = open_sockets([Address("127.0.0.1", 0)])
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            (url,) = bound_urls(sockets)
            await nursery.start(lambda task_status: serve(app, sockets, drain, grace_s=0.2, task_status=task_status))
            yield int(url.rpartition(":")[2])
            nursery.cancel_scope.cancel()


async def connect(port, method="GET"):
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(f"{method} /events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return stream


async def test_response_speaks_at_once_and_is_not_to_be_kept_or_held_back():
    async with streaming(Broadcast()) as port, await connect(port) as stream:
        head = (await until(stream, b"retry: 1000\n\n")).lower()
    assert b"\r\ncontent-type: text/event-stream\r\n" in head
    assert b"\r\ncache-control: no-store\r\n" in head
    assert b"\r\nx-accel-buffering: no\r\n" in head
    assert b"\r\ntransfer-encoding: chunked\r\n" in head
    assert b"content-length" not in head


async def test_head_request_gets_the_head_and_leaves_no_subscriber():
    hub = Broadcast()
    async with streaming(hub) as port, await connect(port, "HEAD") as stream:
        assert b"text/event-stream" in await until(stream, b"\r\n\r\n")
        assert len(hub) == 0


@pytest.mark.parametrize("linger", [struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)], ids=["reset", "end"])
async def test_client_that_leaves_frees_its_subscriber(linger, caplog):
    hub = Broadcast()
    async with streaming(hub) as port:
        stream = await connect(port)
        await until(stream, b"retry")
        assert len(hub) == 1
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        stream.socket.close()
        while len(hub):
            await wait_all_tasks_blocked(0.01)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_client_that_stops_reading_is_dropped_from_the_hub():
    hub = Broadcast()
    async with streaming(hub) as port, await connect(port) as stream:
        await until(stream, b"retry")
        block = encode(None, "x" * 1_000_000)
        while len(hub):
            hub.publish(block)
            await wait_all_tasks_blocked()


def test_limits_leave_silence_between_pings_alone():
    assert Limits().write_s > 15
