"""The first connection: addresses, credentials, TLS, and messages that say what to do."""

from __future__ import annotations

import random
import socket
from functools import partial

import pytest
import trio

from taskman.errors import ConfigError, StoreError, StoreUnavailable
from taskman.store.connection import Connection, error_kind


async def test_greets_over_tcp_with_database_and_name(proxy, connect):
    connection = await connect(f"redis://127.0.0.1:{proxy.port}/3?client_name=tester")
    assert connection.describe() == f"redis://127.0.0.1:{proxy.port}/3"
    clients = (await connection.execute("CLIENT", "LIST")).decode()
    assert "name=tester" in clients
    assert " db=3 " in clients


@pytest.mark.parametrize("options", ["ssl_ca_certs={certificate}", "ssl_cert_reqs=none"])
async def test_speaks_tls(tls_proxy, certificate, connect, options):
    query = options.format(certificate=certificate)
    connection = await connect(f"rediss://localhost:{tls_proxy.port}/0?{query}")
    assert connection.describe() == f"rediss://localhost:{tls_proxy.port}/0"
    value = random.Random(2).randbytes(1_000_000)
    assert await connection.execute("ECHO", value) == value


@pytest.mark.parametrize(
    ("host", "query", "cause"),
    [
        ("localhost", "", "certificate was refused"),
        ("127.0.0.1", "?ssl_ca_certs={certificate}", "certificate was refused"),
    ],
)
async def test_refuses_untrusted_certificates(tls_proxy, certificate, host, query, cause):
    url = f"rediss://{host}:{tls_proxy.port}/0{query.format(certificate=certificate)}"
    with pytest.raises(StoreUnavailable, match=cause):
        await Connection(url).run()


async def test_tls_to_a_plain_port_says_so(proxy):
    with pytest.raises(StoreUnavailable, match="redis:// instead of rediss://"):
        await Connection(f"rediss://127.0.0.1:{proxy.port}?socket_connect_timeout=0.1").run()


async def test_plain_to_a_tls_port_says_so(tls_proxy):
    with pytest.raises(StoreUnavailable, match="rediss:// instead of redis://"):
        await Connection(f"redis://127.0.0.1:{tls_proxy.port}").run()


@pytest.mark.parametrize("credentials", ["alice:p%40ss", ":s3cret"])
async def test_signs_in(new_server, connect, credentials):
    server = await new_server("--requirepass", "s3cret", "--user", "alice", "on", ">p@ss", "~*", "&*", "+@all")
    connection = await connect(f"unix://{credentials}@{server.socket}")
    who = b"alice" if "alice" in credentials else b"default"
    assert await connection.execute("ACL", "WHOAMI") == who
    assert connection.describe() == server.url


@pytest.mark.parametrize("credentials", ["", ":wr0ng@", "bob:wr0ng@"])
async def test_refused_credentials_name_the_remedy(new_server, credentials):
    server = await new_server("--requirepass", "s3cret")
    with pytest.raises(StoreUnavailable, match="Correct the user name and password") as caught:
        await Connection(f"unix://{credentials}{server.socket}").run()
    assert str(server.socket) in str(caught.value)
    assert "wr0ng" not in str(caught.value)


async def test_password_is_not_shown_when_redis_repeats_it(new_server):
    server = await new_server("--rename-command", "AUTH", "")
    with pytest.raises(StoreUnavailable, match="unknown command") as caught:
        await Connection(f"unix://:s3cret@{server.socket}").run()
    assert "s3cret" not in str(caught.value)


async def test_restricted_account_may_be_unable_to_ping(new_server, connect):
    server = await new_server("--user", "carol", "on", ">pw", "~*", "+get")
    connection = await connect(f"unix://carol:pw@{server.socket}")
    assert await connection.execute("GET", "a") is None
    with pytest.raises(StoreError) as caught:
        await connection.execute("SET", "a", 1)
    assert error_kind(caught.value) == "NOPERM"


async def test_missing_database_is_refused(server):
    with pytest.raises(StoreUnavailable, match="out of range"):
        await Connection(f"{server.url}?db=99").run()


async def test_nothing_listens():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(StoreUnavailable) as caught:
            await Connection(f"redis://:s3cret@127.0.0.1:{port}/2").run()
    assert str(caught.value) == (
        f"Cannot reach Redis at redis://127.0.0.1:{port}/2: connection refused. Start it, or correct TASKMAN_REDIS_URL."
    )


async def test_calls_before_the_first_connection_fail_at_once(redis_url):
    with pytest.raises(StoreUnavailable, match="not dialled yet"):
        await Connection(redis_url).execute("PING")


async def test_something_else_listens(nursery):
    async def answer(stream):
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
    with pytest.raises(StoreUnavailable, match="not Redis"):
        await Connection(f"redis://127.0.0.1:{listeners[0].socket.getsockname()[1]}").run()


async def test_silent_first_connection_is_bounded(nursery):
    async def say_nothing(stream):
        await trio.sleep_forever()

    listeners = await nursery.start(partial(trio.serve_tcp, say_nothing, 0, host="127.0.0.1"))
    port = listeners[0].socket.getsockname()[1]
    with pytest.raises(StoreUnavailable, match=r"no answer within 0\.05 s"):
        await Connection(f"redis://127.0.0.1:{port}?socket_connect_timeout=0.05").run()


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://host", "must begin with redis://"),
        ("redis://host:port", "host or port cannot be read"),
        ("redis://:s3/cret@host:6379", "write / "),
        ("redis://host/zero", "number of a database"),
        ("redis://host/-1", "negative"),
        ("redis://host?db=zero", "'db'"),
        ("unix://", "socket file is missing"),
        ("redis://host?ssl_ca_cert=x", "unknown option 'ssl_ca_cert'; did you mean 'ssl_ca_certs'"),
        ("redis://host?ssl_ca_certs=x", "rediss://"),
        ("redis://alice@host", "no password"),
        ("rediss://host?ssl_ca_certs=/nowhere", "TLS option: .*No such file"),
        ("rediss://host?ssl_cert_reqs=requierd", "did you mean 'required'"),
        ("rediss://host?ssl_keyfile=x", "ssl_certfile"),
        ("rediss://host?ssl_min_version=7", "TLS option"),
    ],
)
def test_unusable_url_is_explained(url, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        Connection(url)
    assert "s3" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "described"),
    [
        ("redis://", "redis://localhost:6379/0"),
        ("redis://u:p@[::1]:7000/2?max_connections=5", "redis://[::1]:7000/2"),
        ("rediss://h?ssl_cert_reqs=none&db=1", "rediss://h:6379/1"),
        ("unix://:p@/run/redis.sock?db=4", "unix:///run/redis.sock?db=4"),
    ],
)
def test_described_without_credentials(url, described):
    assert Connection(url).describe() == described
