"""The connection: replies reach their callers whatever callers, Redis and the network do."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from taskman.errors import StoreError, StoreUnavailable
from taskman.store.connection import Connection, error_kind
from taskman.store.scripts import Script

ADD = Script.of("add", b"return redis.call('INCRBY', KEYS[1], ARGV[1])")


async def echo(connection, word, answers):
    answers[word] = await connection.execute("ECHO", word)


async def expect_unavailable(connection, failures, *command):
    with pytest.raises(StoreUnavailable) as caught:
        await connection.execute(*command)
    failures.append(str(caught.value))


async def cancellable(scope, connection, *command):
    with scope:
        await connection.execute(*command)


async def start_then_park(nursery, function, *args):
    """Start a task, and return when it and everything else waits for something outside."""
    nursery.start_soon(function, *args)
    await trio.testing.wait_all_tasks_blocked()


# -- replies


async def test_returns_raw_replies(redis_url, connect):
    connection = await connect(redis_url)
    assert await connection.execute("SET", "text", "é") == b"OK"
    assert await connection.execute("GET", "text") == "é".encode()
    assert await connection.execute("GET", "missing") is None
    assert await connection.execute("INCRBY", "number", 5) == 5
    assert await connection.execute("ZADD", "sorted", 1.5, b"\xff") == 1
    assert await connection.execute("ZRANGE", "sorted", 0, -1, "WITHSCORES") == [b"\xff", b"1.5"]


async def test_thousand_concurrent_callers_get_their_own_replies(redis_url, connect):
    connection = await connect(redis_url)
    answers = {}
    async with trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(echo, connection, f"word {number}", answers)
    assert answers == {f"word {n}": f"word {n}".encode() for n in range(1000)}


async def test_many_commands_keep_order_and_carry_errors(redis_url, connect):
    connection = await connect(redis_url)
    replies = await connection.execute_many([("SET", "a", 1), ("LPUSH", "a", 2), ("GET", "a")])
    assert replies[0] == b"OK"
    assert replies[2] == b"1"
    assert isinstance(replies[1], StoreError)
    assert error_kind(replies[1]) == "WRONGTYPE"
    assert await connection.execute_many([]) == []


async def test_large_values_come_back_whole(redis_url, connect):
    connection = await connect(redis_url)
    value = random.Random(1).randbytes(8_000_000)
    await connection.execute("SET", "large", value)
    assert await connection.execute("GET", "large") == value


@pytest.mark.parametrize("wrong", [None, True, ["list"], object()])
async def test_unsendable_argument_is_refused_before_anything_is_sent(redis_url, connect, wrong):
    connection = await connect(redis_url)
    with pytest.raises(TypeError):
        await connection.execute("ECHO", wrong)
    assert await connection.execute("ECHO", "next") == b"next"


# -- scripts


async def test_script_runs_before_and_after_flush(redis_url, connect):
    connection = await connect(redis_url)
    assert await connection.script(ADD, ["n"], [2]) == 2
    assert await connection.script(ADD, ["n"], [2]) == 4
    await connection.execute("SCRIPT", "FLUSH")
    assert await connection.script(ADD, ["n"], [2]) == 6
    assert await connection.execute("EVALSHA", ADD.sha, 1, "n", 1) == 7


async def test_script_errors_are_not_run_again(redis_url, connect):
    connection = await connect(redis_url)
    fails = Script.of("fails", b"redis.call('INCR', KEYS[1]); return redis.error_reply('FENCED by 3')")
    await connection.script(ADD, ["n"], [0])
    for _ in range(2):
        with pytest.raises(StoreError, match=r"^FENCED by 3$") as caught:
            await connection.script(fails, ["n"], [])
        assert error_kind(caught.value) == "FENCED"
    assert await connection.execute("GET", "n") == b"2"


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("return redis.call('LPUSH', KEYS[1], 'x')", "WRONGTYPE"),
        ("return redis.call('SET', 'other', 'x')", "OOM"),
        ("return redis.error_reply('GONE away')", "GONE"),
        ("return nonsense()", "ERR"),
    ],
)
async def test_kind_of_error_inside_a_script(redis_url, connect, source, kind):
    connection = await connect(redis_url)
    await connection.execute("SET", "text", "x")
    await connection.execute("CONFIG", "SET", "maxmemory", 1 if kind == "OOM" else 0)
    with pytest.raises(StoreError) as caught:
        await connection.script(Script.of("fails", source.encode()), ["text"], [])
    assert error_kind(caught.value) == kind


async def test_replica_that_refuses_writes_is_unavailable(redis_url, connect):
    connection = await connect(redis_url)
    await connection.execute("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(StoreUnavailable, match="READONLY"):
        await connection.execute("SET", "a", 1)


# -- cancellation, in each phase of a call


async def test_call_in_a_cancelled_scope_sends_nothing(redis_url, connect):
    connection = await connect(redis_url)
    with trio.CancelScope() as scope:
        scope.cancel()
        await connection.execute("INCR", "n")
    assert scope.cancelled_caught
    assert await connection.execute("GET", "n") is None


async def test_cancelled_while_queued_and_while_half_written(server, connect, nursery):
    connection = await connect(server.url)
    server.pause()
    half_written, queued, answers = trio.CancelScope(), trio.CancelScope(), {}
    await start_then_park(nursery, cancellable, half_written, connection, "ECHO", bytes(16_000_000))
    await start_then_park(nursery, cancellable, queued, connection, "ECHO", "queued")
    await start_then_park(nursery, echo, connection, "kept", answers)
    half_written.cancel()
    queued.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert half_written.cancelled_caught
    assert queued.cancelled_caught
    server.resume()
    assert await connection.execute("ECHO", "later") == b"later"
    await trio.testing.wait_all_tasks_blocked()
    assert answers == {"kept": b"kept"}


async def test_cancelled_while_redis_works(server, connect, nursery):
    connection = await connect(server.url)
    server.pause()
    scope, answers = trio.CancelScope(), {}
    await start_then_park(nursery, echo, connection, "before", answers)
    await start_then_park(nursery, cancellable, scope, connection, "INCR", "n")
    await start_then_park(nursery, echo, connection, "after", answers)
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert scope.cancelled_caught
    server.resume()
    assert await connection.execute("GET", "n") == b"1"
    await trio.testing.wait_all_tasks_blocked()
    assert answers == {"before": b"before", "after": b"after"}


@pytest.mark.parametrize("arrived", [1, 4, 6, 9, 14])
async def test_cancelled_while_reply_is_partly_there(proxy, connect, nursery, until, arrived):
    connection = await connect(f"redis://127.0.0.1:{proxy.port}")
    proxy.allow(0)
    scope, answers = trio.CancelScope(), {}
    await start_then_park(nursery, cancellable, scope, connection, "ECHO", "abandoned")
    await start_then_park(nursery, echo, connection, "kept", answers)
    proxy.allow(arrived)
    await until(lambda: proxy.passed == proxy.allowance)
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert scope.cancelled_caught
    proxy.allow(float("inf"))
    assert await connection.execute("ECHO", "later") == b"later"
    await trio.testing.wait_all_tasks_blocked()
    assert answers == {"kept": b"kept"}


async def test_cancelled_among_many_commands(proxy, connect, until):
    connection = await connect(f"redis://127.0.0.1:{proxy.port}")
    proxy.allow(0)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as inner:
            inner.start_soon(connection.execute_many, [("ECHO", "one"), ("ECHO", "two"), ("ECHO", "three")])
            await trio.testing.wait_all_tasks_blocked()
            proxy.allow(12)  # the first reply and a part of the second
            await until(lambda: proxy.passed == proxy.allowance)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    proxy.allow(float("inf"))
    assert await connection.execute("ECHO", "later") == b"later"


async def test_random_cancellations_never_mix_up_replies(redis_url, connect):
    connection = await connect(redis_url)
    dice, finished = random.Random(7), []

    async def caller(name):
        for turn in range(20):
            with trio.move_on_after(dice.choice([0, 0.0001, 0.001, 1])):
                assert await connection.execute("ECHO", f"{name}-{turn}") == f"{name}-{turn}".encode()
                finished.append(name)

    async with trio.open_nursery() as nursery:
        for name in range(100):
            nursery.start_soon(caller, name)
    assert 0 < len(finished) < 2000


async def test_closing_the_connection_fails_waiting_calls(server):
    connection = Connection(server.url)
    failures = []
    async with trio.open_nursery() as nursery, trio.open_nursery() as owner:
        await owner.start(connection.run)
        server.pause()
        await start_then_park(nursery, expect_unavailable, connection, failures, "PING")
        owner.cancel_scope.cancel()
    assert len(failures) == 1
    assert not connection.connected
    with pytest.raises(StoreUnavailable, match="the link was closed"):
        await connection.execute("PING")


# -- loss and return of Redis


async def test_killed_redis_fails_calls_and_is_used_again_after_restart(server, connect, until):
    connection = await connect(server.url)
    server.pause()
    failures = []
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(expect_unavailable, connection, failures, "INCR", f"n{number}")
        await trio.testing.wait_all_tasks_blocked()
        server.kill()
    assert len(failures) == 100
    assert all("outcome of this call is unknown" in failure for failure in failures)
    with pytest.raises(StoreUnavailable, match="connection refused"):
        await _first_refusal(connection)
    await server.start()
    await until(lambda: connection.connected)
    assert await connection.execute("ECHO", "back") == b"back"


async def _first_refusal(connection):
    """Call until a redial has failed: before that, the reason is the loss itself."""
    while True:
        try:
            await connection.execute("PING")
        except StoreUnavailable as error:
            if "closed" not in str(error) and "reset" not in str(error):
                raise
        await trio.sleep(0.005)


async def test_silent_redis_is_unavailable_and_recovers(server, connect, until):
    connection = await connect(server.url, call_timeout_s=0.2)
    server.pause()
    began = trio.current_time()
    with pytest.raises(StoreUnavailable, match=r"no answer for 0\.2 s"):
        await connection.execute("PING")
    assert trio.current_time() - began >= 0.2
    assert not connection.connected
    server.resume()
    await until(lambda: connection.connected)
    assert await connection.execute("ECHO", "back") == b"back"


async def test_silence_is_measured_from_the_call_and_idleness_is_no_silence(server, connect):
    connection = await connect(server.url, call_timeout_s=0.05)
    identity = await connection.execute("CLIENT", "ID")
    await trio.sleep(0.12)  # not synchronisation: more than twice the time after which silence is loss
    assert await connection.execute("CLIENT", "ID") == identity


async def test_slow_but_steady_reply_is_not_silence(proxy, connect, nursery):
    connection = await connect(f"redis://127.0.0.1:{proxy.port}", call_timeout_s=0.3)
    proxy.allow(0)
    answers, text, began = {}, "x" * 20, trio.current_time()
    nursery.start_soon(echo, connection, text, answers)
    while not answers:  # one byte each 25 ms: the whole takes longer than the timeout
        proxy.allow(1)
        await trio.sleep(0.025)
    assert answers == {text: text.encode()}
    assert trio.current_time() - began > 0.3


async def test_crash_in_the_reader_leaves_nobody_waiting(redis_url, monkeypatch):
    def crash(link, reply):
        raise RuntimeError("defect")

    monkeypatch.setattr("taskman.store.connection._CallLink._deliver", crash)
    failures = []
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="defect"), flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            connection = Connection(redis_url)
            await nursery.start(connection.run)
            with trio.CancelScope(shield=True):
                await expect_unavailable(connection, failures, "PING")
    assert len(failures) == 1


async def test_unasked_for_reply_ends_the_link(server, connect, until):
    connection = await connect(server.url)
    await connection.execute("SUBSCRIBE", "misuse")
    other = await connect(server.url)
    assert await other.execute("PUBLISH", "misuse", "x") == 1
    await until(lambda: not connection.connected)
    await until(lambda: connection.connected)
    assert await connection.execute("ECHO", "fresh") == b"fresh"


async def test_loading_redis_is_dialled_until_ready(new_server, connect, until):
    server = await new_server("--appendonly", "yes", "--aof-use-rdb-preamble", "no")
    connection = await connect(server.url)
    script = "for i = 1, 100000 do redis.call('SET', i, i) end"
    await connection.execute("EVAL", script, 0)
    server.kill()
    await until(lambda: not connection.connected)
    await server.start()
    await until(lambda: connection.connected)
    assert await connection.execute("DBSIZE") == 100_000
