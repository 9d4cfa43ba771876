"""The socket to Redis: whole, in order, and honest about what has broken."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from taskman.store.stream import DirectStream

Pair = tuple[DirectStream, trio.SocketStream]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    here, there = trio.socket.socketpair()
    with here, there:
        yield DirectStream(trio.SocketStream(here)), trio.SocketStream(there)


async def test_more_than_the_kernel_takes_arrives_whole_and_in_order(pair: Pair, nursery: trio.Nursery) -> None:
    direct, other = pair
    sent = bytes(range(256)) * 20_000
    nursery.start_soon(direct.send_all, sent)
    received = b""
    while len(received) < len(sent):
        received += await other.receive_some()
    assert received == sent


async def test_a_reader_waits_until_there_is_something(pair: Pair, nursery: trio.Nursery) -> None:
    direct, other = pair
    nursery.start_soon(other.send_all, b"+PONG\r\n")
    assert await direct.receive_some() == b"+PONG\r\n"
    await other.aclose()
    assert await direct.receive_some() == b""


async def test_a_reader_that_is_woken_for_nothing_waits_on(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    direct, other = pair
    await other.send_all(b"late")
    readable, false_alarms = trio.lowlevel.wait_readable, [1]

    async def wake_once_for_nothing(fd: int) -> None:
        if false_alarms and false_alarms.pop():
            await trio.lowlevel.checkpoint()
        else:
            await readable(fd)

    direct._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    assert await direct.receive_some() == b"late"
    monkeypatch.setattr(trio.lowlevel, "wait_readable", wake_once_for_nothing)
    with trio.move_on_after(0.05) as scope:
        await direct.receive_some()
    assert scope.cancelled_caught


async def test_a_peer_that_is_gone_breaks_the_stream(pair: Pair) -> None:
    direct, other = pair
    await other.aclose()
    with pytest.raises(trio.BrokenResourceError):
        for _ in range(3):
            await direct.send_all(b"x" * 100_000)


async def test_closing_wakes_who_waits_and_refuses_who_comes(pair: Pair, nursery: trio.Nursery) -> None:
    direct, _ = pair
    outcome = []

    async def read() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await direct.receive_some()
        outcome.append("told")

    nursery.start_soon(read)
    await trio.testing.wait_all_tasks_blocked()
    await direct.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert outcome == ["told"]
    with pytest.raises(trio.ClosedResourceError):
        await direct.send_all(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await direct.receive_some()


async def test_a_cancelled_reader_takes_nothing(pair: Pair) -> None:
    direct, other = pair
    with trio.move_on_after(0.01):
        await direct.receive_some()
    await other.send_all(b"kept")
    assert await direct.receive_some() == b"kept"
