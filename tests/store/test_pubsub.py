"""Pub/sub: nothing published after subscribing goes missing without a GAP."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing

from taskman.errors import StoreError, StoreUnavailable
from taskman.store.pubsub import GAP, Message, PubSub


@pytest.fixture
def listen(nursery):
    """Opens pub/sub connections that close at the end of the test."""

    async def listen(url, **options):
        pubsub = PubSub(url, **options)
        await nursery.start(pubsub.run)
        return pubsub

    return listen


async def publish(connection, channel, *payloads):
    await connection.execute_many([("PUBLISH", channel, payload) for payload in payloads])


async def listeners(connection, channel):
    return (await connection.execute("PUBSUB", "NUMSUB", channel))[1]


async def test_delivers_in_order_from_the_moment_of_subscribing(redis_url, connect, listen):
    connection, pubsub = await connect(redis_url), await listen(redis_url)
    await publish(connection, "news", "too early")
    async with pubsub.subscribe("news", "alerts") as subscription:
        assert await listeners(connection, "news") == 1
        assert await listeners(connection, "alerts") == 1
        await publish(connection, "news", b"\xff", "2")
        await publish(connection, "alerts", "3")
        received = [await anext(subscription) for _ in range(3)]
    assert received == [Message("news", b"\xff"), Message("news", b"2"), Message("alerts", b"3")]


async def test_each_subscription_gets_every_message(redis_url, connect, listen):
    connection, pubsub = await connect(redis_url), await listen(redis_url)
    async with pubsub.subscribe("news") as first, pubsub.subscribe("news", "news") as second:
        assert await listeners(connection, "news") == 1
        await publish(connection, "news", "x")
        assert await anext(first) == await anext(second) == Message("news", b"x")


async def test_last_to_leave_unsubscribes(redis_url, connect, listen):
    connection, pubsub = await connect(redis_url), await listen(redis_url)
    async with pubsub.subscribe("news") as outer:
        async with pubsub.subscribe("news"):
            pass
        await publish(connection, "news", "still here")
        assert await anext(outer) == Message("news", b"still here")
    while await listeners(connection, "news"):
        await trio.sleep(0.005)


async def test_leaving_and_coming_back_at_once_misses_nothing(redis_url, connect, listen):
    connection, pubsub = await connect(redis_url), await listen(redis_url)
    for turn in range(50):
        async with pubsub.subscribe("news") as subscription:
            await publish(connection, "news", turn)
            assert await anext(subscription) == Message("news", b"%d" % turn)


async def test_iteration_ends_when_the_subscription_is_left(redis_url, listen):
    pubsub = await listen(redis_url)
    received = []

    async def follow(subscription):
        async for message in subscription:
            received.append(message)

    async with trio.open_nursery() as nursery, pubsub.subscribe("news") as subscription:
        nursery.start_soon(follow, subscription)
        await trio.testing.wait_all_tasks_blocked()
    assert received == []


async def test_cancelled_reader_loses_no_message(redis_url, connect, listen):
    connection, pubsub = await connect(redis_url), await listen(redis_url)
    async with pubsub.subscribe("news") as subscription:
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(subscription)
        assert scope.cancelled_caught
        await publish(connection, "news", "x")
        assert await anext(subscription) == Message("news", b"x")


async def test_slow_reader_gets_a_gap_instead_of_a_growing_buffer(redis_url, connect, listen):
    connection, pubsub = await connect(redis_url), await listen(redis_url, capacity=5)
    async with pubsub.subscribe("news") as slow, pubsub.subscribe("news") as quick:
        for number in range(8):
            await publish(connection, "news", number)
            assert await anext(quick) == Message("news", b"%d" % number)
        received = [await anext(slow) for _ in range(4)]
        assert received == [GAP, *(Message("news", b"%d" % n) for n in (5, 6, 7))]
        await publish(connection, "news", "on time")
        assert await anext(slow) == Message("news", b"on time")


async def test_resubscribes_after_a_crash_of_redis_and_tells_of_the_gap(server, connect, listen, until):
    connection, pubsub = await connect(server.url), await listen(server.url)
    async with pubsub.subscribe("news") as one, pubsub.subscribe("news", "alerts") as both:
        server.kill()
        await server.start()
        assert await anext(one) is GAP
        assert await anext(both) is GAP
        await until(lambda: connection.connected)
        await publish(connection, "news", "after")
        assert await anext(one) == Message("news", b"after")
        assert await _next_message(both) == Message("news", b"after")
        assert await listeners(connection, "alerts") == 1


async def _next_message(subscription):
    """One GAP for each channel, unless they came together."""
    while (item := await anext(subscription)) is GAP:
        pass
    return item


async def test_left_channels_are_not_subscribed_to_again(server, connect, listen, until):
    connection, pubsub = await connect(server.url), await listen(server.url)
    async with pubsub.subscribe("kept") as kept:
        async with pubsub.subscribe("left"):
            server.kill()
            await until(lambda: not pubsub.connected)
        await server.start()
        assert await anext(kept) is GAP
        await until(lambda: connection.connected)
        assert await listeners(connection, "left") == 0


async def test_keepalive_finds_a_dead_link(server, listen, until):
    pubsub = await listen(server.url, keepalive_s=0.05, call_timeout_s=0.1)
    async with pubsub.subscribe("news") as subscription:
        server.pause()
        await until(lambda: not pubsub.connected)
        server.resume()
        assert await anext(subscription) is GAP


@pytest.mark.parametrize("channels", [(), ("news",)])
async def test_keepalive_keeps_a_quiet_link(redis_url, connect, listen, channels):
    connection = await connect(redis_url)
    pubsub = await listen(redis_url, keepalive_s=0.01, call_timeout_s=0.5)
    async with pubsub.subscribe(*channels):
        while await _pings(connection) < 5:
            await trio.sleep(0.005)
        assert pubsub.connected


async def _pings(connection):
    statistics = (await connection.execute("INFO", "commandstats")).decode()
    return int(statistics.partition("cmdstat_ping:calls=")[2].partition(",")[0] or 0)


async def test_subscribing_without_redis_fails_at_once(server, listen, until):
    pubsub = await listen(server.url)
    server.kill()
    await until(lambda: not pubsub.connected)
    with pytest.raises(StoreUnavailable, match="Cannot reach Redis"):
        await _subscribe_for_a_moment(pubsub, "news")


async def test_losing_redis_before_the_confirmation_fails_the_subscriber(server, connect, listen, until):
    pubsub = await listen(server.url)
    server.pause()
    with pytest.RaisesGroup(StoreUnavailable):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_subscribe_for_a_moment, pubsub, "news")
            await trio.testing.wait_all_tasks_blocked()
            server.kill()
    await server.start()
    connection = await connect(server.url)
    await until(lambda: pubsub.connected)
    async with pubsub.subscribe("other"):
        assert await listeners(connection, "news") == 0


async def test_cancelled_before_the_confirmation_leaves_the_channel(server, connect, listen):
    pubsub, connection = await listen(server.url), await connect(server.url)
    server.pause()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_subscribe_for_a_moment, pubsub, "news")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    server.resume()
    async with pubsub.subscribe("news") as subscription:
        await publish(connection, "news", "x")
        assert await anext(subscription) == Message("news", b"x")


async def _subscribe_for_a_moment(pubsub, channel):
    async with pubsub.subscribe(channel):
        pass


async def test_forbidden_channel_is_an_error_and_disturbs_nobody(new_server, connect, listen):
    rules = ["on", ">pw", "~*", "+@all", "resetchannels", "&open"]
    server = await new_server("--user", "bob", *rules)
    url = f"unix://bob:pw@{server.socket}"
    connection, pubsub = await connect(server.url), await listen(url)
    async with pubsub.subscribe("open") as subscription:
        with pytest.raises(StoreError, match="NOPERM"):
            await _subscribe_for_a_moment(pubsub, "closed")
        await publish(connection, "open", "x")
        assert await anext(subscription) == Message("open", b"x")


async def test_closing_the_connection_ends_iterators_after_what_had_come(redis_url, connect):
    connection, pubsub = await connect(redis_url), PubSub(redis_url)
    async with trio.open_nursery() as owner:
        await owner.start(pubsub.run)
        async with pubsub.subscribe("news") as subscription, pubsub.subscribe("news") as witness:
            await publish(connection, "news", "x")
            await anext(witness)
            owner.start_soon(partial(_cancel_when_idle, owner.cancel_scope))
            with trio.CancelScope(shield=True):
                assert await anext(subscription) == Message("news", b"x")
                with pytest.raises(StoreUnavailable, match="closed"):
                    await anext(subscription)


async def _cancel_when_idle(scope):
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


async def test_unreachable_redis_fails_the_start(tmp_path):
    with pytest.raises(StoreUnavailable, match="no such file"):
        await PubSub(f"unix://{tmp_path}/nowhere.sock").run()
