"""Who may be asked for, what every answer carries, and that no answer is blank."""

import json
import logging
from contextlib import asynccontextmanager

import httpx2
import pytest
import trio
from quart import Response, websocket
from quart_trio import QuartTrio

from taskman.config import Address
from taskman.errors import ConfigError
from taskman.web.drain import Drain
from taskman.web.guard import Guard, HostRules, allowed_hosts
from taskman.web.listening import bound_urls, open_sockets
from taskman.web.serving import serve

RULES = allowed_hosts([Address("127.0.0.1", 0)], ["Tasks.Example.com", "*.lan.example", "2001:DB8::0:1".join("[]")])


@asynccontextmanager
async def guarded(app, rules=RULES):
    drain = Drain()
    sockets = open_sockets([Address("127.0.0.1", 0)])
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            (url,) = bound_urls(sockets)
            await nursery.start(serve, Guard(app, hosts=rules, drain=drain), sockets, drain)
            async with httpx2.AsyncClient(base_url=url) as client:
                client.drain = drain
                yield client
            nursery.cancel_scope.cancel()


class App(QuartTrio):
    """A page, a page with its own ideas of headers, and a WebSocket, all noting the request id that they saw."""

    def __init__(self):
        super().__init__(__name__)
        self.config["PROPAGATE_EXCEPTIONS"] = True
        self.get("/")(self.page)
        self.get("/own")(self.own)
        self.get("/broken")(self.broken)
        self.websocket("/live")(self.live)

    async def page(self):
        return "page"

    async def own(self):
        headers = {"Cache-Control": "max-age=60", "Content-Security-Policy": "default-src *", "X-Request-Id": "mine"}
        return Response("own", headers=headers)

    async def broken(self):
        raise RuntimeError("the page broke")

    async def live(self):
        await websocket.accept()
        await websocket.send("live")


def bare(answer):
    async def app(scope, receive, send):
        if scope["type"] != "lifespan":
            await answer(scope, receive, send)

    return app


async def exchange(client, head):
    """Status line, head and body of the answer to a request written by hand."""
    stream = await trio.open_tcp_stream(client.base_url.host, client.base_url.port)
    async with stream:
        await stream.send_all(head.encode("latin-1"))
        received = b""
        while data := await stream.receive_some(65536):
            received += data
    first, _, body = received.partition(b"\r\n\r\n")
    return int(first.split()[1]), first.lower(), body


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("localhost.", 200),
        ("127.0.0.1", 200),
        ("127.0.0.1:1", 200),
        ("[::1]", 200),
        ("[::1]:8080", 200),
        ("[0:0:0:0:0:0:0:1]", 200),
        ("[2001:db8::1]", 200),
        ("tasks.example.com", 200),
        ("TASKS.EXAMPLE.COM:443", 200),
        ("a.lan.example", 200),
        ("a.b.LAN.example:80", 200),
        ("lan.example", 421),
        ("evillan.example", 421),
        ("evil.example", 421),
        ("tasks.example.com.evil.example", 421),
        ("127.0.0.2", 421),
        ("0.0.0.0", 421),
        ("2130706433", 421),
        ("[::2]", 421),
        ("[::ffff:127.0.0.1]", 421),
        ("", 400),
        ("localhost:port", 400),
        ("localhost:8080:1", 400),
        ("user@localhost", 400),
        ("localhost, evil.example", 400),
        ("::1", 400),
        ("[localhost]", 400),
        ("[::1", 400),
        ("loc\xe4lhost", 400),
        ("local host", 400),
    ],
)
async def test_only_known_hosts_are_answered(host, status):
    async with guarded(App()) as client:
        answered, _, body = await exchange(client, f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
    assert answered == status
    assert (body == b"page") == (status == 200)


async def test_unknown_host_is_told_the_remedy():
    async with guarded(App()) as client:
        response = await client.get("/", headers={"Host": "evil.example"})
    assert response.status_code == 421
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["title"] == "Misdirected Request"
    assert problem["code"] == "unknown_host"
    assert "evil.example" in problem["detail"]
    assert "TASKMAN_ALLOWED_HOSTS" in problem["detail"]
    assert problem["request_id"] == response.headers["x-request-id"]


async def test_missing_host_is_refused():
    async with guarded(App()) as client:
        assert (await exchange(client, "GET / HTTP/1.0\r\n\r\n"))[0] == 400
        assert (await exchange(client, "GET / HTTP/1.1\r\nConnection: close\r\n\r\n"))[0] == 400


async def test_target_that_is_no_path_is_refused():
    async with guarded(App()) as client:
        head = "GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert (await exchange(client, head))[0] == 400


async def test_refused_upload_does_not_hold_the_connection():
    async with guarded(App()) as client:
        head = "POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 3000000\r\n\r\n"
        assert (await exchange(client, head + "a" * 2_000_000))[0] == 421


def handshake(path, host, origin=None):
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        *([f"Origin: {origin}"] if origin is not None else []),
    ]
    return "\r\n".join((*lines, "", ""))


def origins(port):
    own = f"127.0.0.1:{port}"
    return [
        (None, own, 101),
        (f"http://{own}", own, 101),
        (f"HTTP://{own}", own, 101),
        ("http://localhost", "LOCALHOST:80", 101),
        ("https://tasks.example.com", "tasks.example.com", 101),
        ("https://tasks.example.com:443", "Tasks.example.com", 101),
        ("http://[::1]:8080", "[::1]:8080", 101),
        ("http://127.0.0.1:1", own, 403),
        (f"http://localhost:{port}", own, 403),
        ("https://evil.example", own, 403),
        ("http://[::1", own, 403),
        ("null", own, 403),
        ("file://", own, 403),
        (f"ftp://{own}", own, 403),
        ("http://evil.example", "evil.example", 421),
        (None, "", 400),
    ]


async def test_websocket_is_opened_only_by_our_own_pages():
    async with guarded(App()) as client:
        for origin, host, status in origins(client.base_url.port):
            answered, head, _ = await exchange(client, handshake("/live", host, origin))
            assert (origin, host, answered) == (origin, host, status)
            assert (b"application/problem+json" in head) == (status != 101)


async def test_refused_websocket_carries_its_problem():
    async with guarded(App()) as client:
        status, _, body = await exchange(client, handshake("/live", "localhost", "http://evil.example"))
    assert status == 403
    assert json.loads(body)["code"] == "foreign_origin"


EXPECTED = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@pytest.mark.parametrize("path", ["/", "/missing", "/broken"])
async def test_every_answer_carries_the_security_headers(path):
    async with guarded(App()) as client:
        headers = (await client.get(path)).headers
    assert {name: headers[name] for name in EXPECTED} == EXPECTED
    assert "permissions-policy" in headers


async def test_page_can_choose_its_caching_but_not_loosen_the_rest():
    async with guarded(App()) as client:
        headers = (await client.get("/own")).headers
    assert headers.get_list("cache-control") == ["max-age=60"]
    assert headers.get_list("content-security-policy") == [EXPECTED["content-security-policy"]]
    assert headers["x-request-id"] != "mine"


async def test_each_request_has_its_own_id():
    seen = []

    @bare
    async def app(scope, receive, send):
        seen.append(scope["taskman.request_id"])
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    async with guarded(app) as client:
        answered = [(await client.get("/")).headers["x-request-id"] for _ in range(3)]
    assert answered == seen
    assert len(set(seen)) == 3


async def test_crash_is_answered_with_a_problem_and_logged(caplog):
    async with guarded(App()) as client:
        response = await client.get("/broken")
    assert response.status_code == 500
    problem = response.json()
    assert problem["request_id"] == response.headers["x-request-id"]
    assert "the page broke" not in response.text
    (record,) = [record for record in caplog.records if record.name == "taskman.web"]
    assert record.levelno == logging.ERROR
    assert problem["request_id"] in record.getMessage()
    assert str(record.exc_info[1]) == "the page broke"


async def test_app_that_answers_nothing_is_answered_for(caplog):
    @bare
    async def app(scope, receive, send):
        pass

    async with guarded(app) as client:
        response = await client.get("/")
    assert response.json()["status"] == response.status_code == 500
    assert "was not answered" in caplog.text


async def test_crash_midway_is_logged_once_and_cuts_the_answer(caplog):
    @bare
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("midway")

    async with guarded(app) as client:
        with pytest.raises(httpx2.TransportError):
            await client.get("/")
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["midway"]


async def test_crash_before_a_websocket_opens_is_answered():
    @bare
    async def app(scope, receive, send):
        raise RuntimeError("no socket today")

    async with guarded(app) as client:
        status, _, body = await exchange(client, handshake("/", "localhost"))
    assert status == json.loads(body)["status"] == 500


async def test_request_whose_client_left_gets_no_answer_and_no_log(caplog):
    left = trio.Event()

    @bare
    async def app(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    async with guarded(app) as client:
        with pytest.raises(httpx2.ReadTimeout):
            await client.get("/", timeout=0.1)
        await left.wait()
    assert not caplog.records


async def test_answers_announce_the_end_while_draining():
    asked, may_answer = trio.Event(), trio.Event()

    @bare
    async def app(scope, receive, send):
        asked.set()
        await may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async with guarded(app) as client, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def ask():
            response = await client.get("/")
            assert response.headers["connection"] == "close"

        await asked.wait()
        client.drain.start()
        may_answer.set()


def test_server_that_listens_everywhere_answers_to_the_machines_name(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "Node7")
    rules = allowed_hosts([Address("0.0.0.0", 8080), Address("::", 8080)])
    assert rules == HostRules(frozenset({"localhost", "127.0.0.1", "::1", "node7"}))


def test_address_that_is_bound_is_answered_to():
    rules = allowed_hosts([Address("192.0.2.7", 8080), Address("2001:DB8:0::1", 8080), Address("Node7", 80)])
    assert rules.exact >= {"192.0.2.7", "2001:db8::1", "node7"}


def test_port_of_an_extra_host_is_ignored():
    assert "tasks.example.com" in allowed_hosts([], ["tasks.example.com:8443"]).exact


@pytest.mark.parametrize("entry", ["*", "*.", "*.*.example.com", "https://example.com", "*.127.0.0.1", "exa mple", ""])
def test_extra_host_that_can_never_match_is_refused(entry):
    with pytest.raises(ConfigError, match="TASKMAN_ALLOWED_HOSTS"):
        allowed_hosts([], [entry])
