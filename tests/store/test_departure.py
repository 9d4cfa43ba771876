"""When commands leave, and with which others; and in which order their replies are told."""

from __future__ import annotations

import time
from functools import partial

import redis
import trio
import trio.testing

from taskman.errors import StoreUnavailable


async def test_commands_of_one_turn_leave_together(redis_url, connect):
    connection = await connect(redis_url)
    before = await _reads(connection)
    async with trio.open_nursery() as nursery:
        for number in range(500):
            nursery.start_soon(connection.execute, "ECHO", number)
    assert await _reads(connection) - before < 20


async def _reads(connection):
    statistics = (await connection.execute("INFO", "stats")).decode()
    return int(statistics.partition("total_reads_processed:")[2].split()[0])


async def test_what_leaves_at_once_waits_for_no_other_task(redis_url, connect):
    connection = await connect(redis_url)
    with redis.Redis.from_url(redis_url) as other:
        for number in range(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_hog_until_set, other, f"key {number}")
                nursery.start_soon(connection.execute, "ECHO", "gathered")
                await connection.execute("SET", f"key {number}", "value", at_once=True)


async def _hog_until_set(other, key):
    """Let nothing else run here: what is not on its way yet cannot leave."""
    until = time.monotonic() + 5
    while other.get(key) != b"value":
        assert time.monotonic() < until


async def test_what_leaves_at_once_keeps_its_place_and_may_be_large(redis_url, connect):
    connection = await connect(redis_url)
    large, answers = "x" * 20_000_000, []

    async def ask(word, at_once):
        answers.append((await connection.execute("ECHO", word, at_once=at_once))[:9].decode())

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(partial(ask, f"{number:09}" + large * (number == 20), at_once=bool(number % 3)))
            if number % 10 == 0:
                await trio.lowlevel.checkpoint()
    assert sorted(answers) == [f"{number:09}" for number in range(50)]


async def test_a_command_that_is_followed_leaves_with_the_next_and_returns_behind_it(redis_url, connect):
    connection = await connect(redis_url)
    before = await _reads(connection)
    for _ in range(5):
        woken, returned = trio.Event(), []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_follow, connection, woken, returned)
            await trio.testing.wait_all_tasks_blocked()
            woken.set()
            await connection.execute("ECHO", "followed", followed=True)
            await trio.lowlevel.checkpoint()  # both are told in one turn of the event loop, in any order
            returned.append("followed")
        assert returned == ["next", "followed"]
    assert await _reads(connection) - before == 6


async def _follow(connection, woken, returned):
    await woken.wait()
    await connection.execute("BLPOP", "nothing", 0.05, at_once=True)  # its reply comes by itself
    returned.append("next")


async def test_a_command_that_nobody_follows_is_answered_all_the_same(redis_url, connect):
    connection = await connect(redis_url)
    for _ in range(3):
        assert await connection.execute("ECHO", "alone", followed=True) == b"alone"


async def test_what_was_answered_before_the_link_was_lost_is_told(server, connect):
    connection, answers = await connect(server.url), []

    async def ask(*command, followed=False):
        try:
            answers.append(await connection.execute(*command, followed=followed))
        except StoreUnavailable:
            answers.append("lost")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(ask, "ECHO", "held", followed=True))
        await trio.lowlevel.checkpoint()
        nursery.start_soon(ask, "BLPOP", "nothing", 0)
        with redis.Redis.from_url(server.url) as other:
            while int(other.info("clients")["blocked_clients"]) == 0:
                await trio.lowlevel.checkpoint()
        server.kill()
    assert sorted(answers, key=str) == [b"held", "lost"]
