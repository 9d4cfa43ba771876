"""Plain requests: read as h11 reads them or not at all, and answered as by Hypercorn."""

import json
from contextlib import suppress

import h11
import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from quart import request
from quart_trio import QuartTrio
from trio.testing import wait_all_tasks_blocked
from web.serving import LIMITS, bare, rest_of, running, start, until

from taskman.web.connection import Limits
from taskman.web.plain import PlainAnswer, read_plain

TOKEN = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~"
names = st.sampled_from([b"Host", b"Content-Length", b"content-length", b"Connection", b"Expect", b"Upgrade", b"TE",
                         b"Transfer-Encoding", b"X-One", b"Content-Type", b"Host ", b" Folded", b""])  # fmt: skip
values = st.sampled_from([b"localhost", b"0", b"5", b"05", b"+5", b"5, 5", b"9" * 23, b"000005",
                          b"0" * 20 + b"5", b"0" * 19 + b"5", b"keep-alive",
                          b"close", b"chunked", b"100-continue", b"", b" x ", b"a\tb", b"\xff\xe9", b"a\x00b",
                          b"a\rb", b"a\nb", b"\x7f"])  # fmt: skip
lines = st.tuples(names, st.sampled_from([b":", b": ", b":\t", b""]), values, st.sampled_from([b"\r\n"] * 5 + [b"\n"]))
heads = st.tuples(
    st.sampled_from([b"POST"] * 5 + [b"GET", b"post", b"P\xd6ST"]),
    st.sampled_from(
        [
            *[b"/api/v1/runs"] * 9,
            b"/",
            b"/api/v1/runs?b=c",
            b"/%2e%2e//x",
            b"*",
            b"http://localhost/",
            b"/\xe4",
            b"/a b",
            b"",
        ]
    ),
    st.sampled_from([b"HTTP/1.1"] * 5 + [b"HTTP/1.0", b"HTTP/2", b"http/1.1"]),
    st.lists(lines, max_size=5),
    st.booleans(),
)
bodies = st.sampled_from([b"", b"hello", b"hell", b"helloPOST / HTTP/1.1\r\n", b"5\r\nhello\r\n0\r\n\r\n"])
edits = st.lists(st.tuples(st.integers(0, 300), st.binary(max_size=2)), max_size=2)


def written(head, body, edited):
    """A request as bytes, some of them replaced."""
    method, target, version, fields, is_sound = head
    sound = b"Host: localhost\r\nContent-Length: 5\r\n" if is_sound else b""
    data = b" ".join((method, target, version)) + b"\r\n" + sound + b"".join(map(b"".join, fields)) + b"\r\n" + body
    for at, piece in edited:
        data = data[:at] + piece + data[at + len(piece) :]
    return data


def read_by_h11(data):
    """Target, headers, what there is of the body, and whether that is all of it."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    head = connection.next_event()
    assert isinstance(head, h11.Request)
    assert (head.method, head.http_version) == (b"POST", b"1.1")
    assert not connection.they_are_waiting_for_100_continue
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += event.data
    assert connection.trailing_data[0] == b""
    assert connection.their_state is not h11.MIGHT_SWITCH_PROTOCOL
    assert connection.our_state is h11.SEND_RESPONSE  # and not to be closed: the next request may follow
    return head.target, list(head.headers), body, isinstance(event, h11.EndOfMessage)


PLAIN = b"POST /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nX-One: \t1 \r\n\r\nhello"


@given(st.builds(written, heads, bodies, edits))
@example(PLAIN)
@example(PLAIN[:-2])
@example(PLAIN.replace(b"X-One", b"Connection").replace(b"\t1", b"Keep-Alive"))
@example(PLAIN.replace(b": 5", b":  005"))
@example(PLAIN.replace(b": 5", b": " + b"0" * 20 + b"5")[:-5])
def test_what_is_read_is_what_h11_reads(data):
    plain = read_plain(data)
    if plain is not None:
        assert (plain.target, plain.headers, plain.body, plain.missing == 0) == read_by_h11(data)


def test_a_plain_request_is_read_whole_or_in_part():
    plain = read_plain(PLAIN)
    assert (plain.target, plain.body, plain.missing) == (b"/api/v1/runs", b"hello", 0)
    assert plain.headers[2] == (b"x-one", b"1")
    assert read_plain(PLAIN[:-5]).missing == 5


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"POST", b"PUT"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"/api", b"*"),
        (b"/api", b"http://localhost/api"),
        (b"/runs", b"/runs/bulk"),
        (b"/runs", b"/runs?a=b"),
        (b"/runs", b"/run%73"),
        (b"Host", b"X-Host"),
        (b"X-One: \t1 ", b"Host: localhost"),
        (b"X-One: \t1 ", b"Content-Length: 5"),
        (b"X-One: \t1 ", b"Transfer-Encoding: chunked"),
        (b"X-One: \t1 ", b"Expect: 100-continue"),
        (b"X-One: \t1 ", b"Upgrade: websocket"),
        (b"X-One: \t1 ", b"Connection: close"),
        (b"X-One: \t1 ", b"X-One : 1"),
        (b"X-One: \t1 ", b"X-One: a\r\n b"),
        (b"X-One: \t1 ", b"X-One: \x00"),
        (b"Content-Length: 5\r\n", b""),
        (b": 5", b": +5"),
        (b": 5", b": 4"),
        (b": 5", b": 65537"),
        (b": 5", b": " + b"9" * 5000),
        (b": 5", b": " + b"0" * 20 + b"5"),
        (b"\r\n\r\nhello", b"\r\n"),
    ],
)
def test_what_is_not_plain_is_left_to_hypercorn(old, new):
    assert old in PLAIN
    assert read_plain(PLAIN.replace(old, new)) is None


PATH = "/api/v1/runs"


class App(QuartTrio):
    """Does what a header says."""

    def __init__(self):
        super().__init__(__name__)
        self.post(PATH)(self.answer)

    async def answer(self):
        return await getattr(self, request.headers.get("X-Do", "echo"))()

    async def echo(self):
        headers = sorted(one for one in request.headers if one[0] != "Te")
        return json.dumps([request.url, (await request.get_data()).decode(), headers])

    async def pieces(self):
        async def chunks():
            for piece in (b"one", b"", b"two"):
                yield piece

        return chunks()

    async def nothing(self):
        return "", 204

    async def fails(self):
        raise RuntimeError("on purpose")


def post(*headers, body="hello"):
    return "\r\n".join((f"POST {PATH} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers, "", body))


async def answer_of(stream):
    """Status line, headers and body of the next answer; the connection stays."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("Host", "localhost"), ("Content-Length", "0")]))
    client.send(h11.EndOfMessage())
    body, head = b"", None
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            data = await stream.receive_some(65536)
            assert data, "the connection ended within an answer"
            client.receive_data(data)
        elif isinstance(event, h11.Response):
            head = event.status_code, sorted(set(event.headers) - {one for one in event.headers if one[0] == b"date"})
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            assert isinstance(event, h11.EndOfMessage)
            assert client.trailing_data[0] == b""
            return (*head, body)


@pytest.mark.parametrize("what", ["echo", "pieces", "nothing", "fails"])
async def test_both_ways_give_the_same_answer(what, caplog):
    async with running(App()) as server:
        stream = await server.connect()
        for _ in range(3):
            await stream.send_all(post(f"X-Do: {what}").encode())
            plainly = await answer_of(stream)
            assert read_plain(post(f"X-Do: {what}").encode())
            await stream.send_all(post(f"X-Do: {what}", "TE: trailers").encode())
            assert plainly == await answer_of(stream)


async def test_a_body_may_come_apart_from_its_head_soon_or_late():
    async with running(App()) as server:
        stream = await server.connect()
        for wait_s in (0.0, 0.001, 0.2):
            await stream.send_all(post(body="").replace(": 0", ": 6").encode())
            await trio.sleep(wait_s)
            await stream.send_all(b"abc")
            await trio.sleep(wait_s)
            await stream.send_all(b"def")
            assert b'"abcdef"' in (await answer_of(stream))[2]


async def test_requests_that_follow_at_once_are_all_answered():
    async with running(App()) as server:
        stream = await server.connect(post(body="a1") + post(body="b1") + post("Connection: close", body="c1"))
        said = await rest_of(stream)
        assert [said.count(f'"{name}1"'.encode()) for name in "abc"] == [1, 1, 1]


async def test_one_that_follows_within_the_body_that_was_waited_for_is_answered_too():
    async with running(App()) as server:
        stream = await server.connect(post(body="").replace(": 0", ": 5"))
        await trio.sleep(0.01)
        await stream.send_all(b"hello" + post("Connection: close").encode())
        assert (await rest_of(stream)).count(b'"hello"') == 2


async def test_a_client_that_leaves_within_its_body_leaves_nothing_behind():
    async with running(App()) as server:
        stream = await server.connect(post(body="").replace(": 0", ": 5"))
        await stream.send_eof()
        await rest_of(stream)
        assert b"hello" in await server.ask(post("Connection: close"))


@pytest.mark.parametrize("announced", [0, 4, 6, 70])
async def test_an_answer_that_is_not_as_long_as_announced_is_cut(announced, caplog):
    async def respond(receive, send):
        await start(send, (b"content-length", b"%d" % announced))
        await send({"type": "http.response.body", "body": b"hello"})

    async with running(bare(respond)) as server:
        with suppress(trio.BrokenResourceError):
            said = await rest_of(await server.connect(post()))
            assert not said.endswith(b"hello") or announced > 5
    assert "the body of an answer has not the length" in caplog.text


async def test_a_header_cannot_begin_another(caplog):
    async def respond(receive, send):
        await start(send, (b"x-name", b"a\r\nset-cookie: b"), (b"content-length", b"0"))
        await send({"type": "http.response.body", "body": b""})

    async with running(bare(respond)) as server:
        assert (await server.ask(post())).startswith(b"HTTP/1.1 500 ")
    assert "contains a line end" in caplog.text


async def test_an_app_that_ends_without_an_answer_is_answered_for():
    async def respond(receive, send):
        assert (await receive())["body"] == b"hello"

    async with running(bare(respond)) as server:
        assert (await server.ask(post())).startswith(b"HTTP/1.1 500 ")


async def test_the_wait_for_a_client_to_leave_ends_with_the_server():
    asked = trio.Event()

    async def respond(receive, send):
        await receive()
        asked.set()
        await receive()

    async with running(bare(respond), grace_s=0.1) as server:
        stream = await server.connect(post())
        await asked.wait()
        server.drain.start()
        await server.ended.wait()
        with suppress(trio.BrokenResourceError):
            await rest_of(stream)


async def test_an_answer_under_way_is_given_before_the_server_ends():
    asked, may_answer = trio.Event(), trio.Event()

    async def respond(receive, send):
        asked.set()
        await may_answer.wait()
        await start(send, (b"content-length", b"5"))
        await send({"type": "http.response.body", "body": b"hello"})

    async with running(bare(respond), grace_s=5) as server:
        stream = await server.connect(post())
        await asked.wait()
        server.drain.start()
        may_answer.set()
        assert (await rest_of(stream)).endswith(b"hello")
        await server.ended.wait()


async def test_a_connection_that_idles_after_a_plain_request_is_closed():
    async with running(App(), limits=Limits(keep_alive_s=0.2)) as server:
        stream = await server.connect(post("X-Do: nothing"))
        assert (await rest_of(stream)).startswith(b"HTTP/1.1 204 ")


async def test_a_slow_head_after_a_plain_request_is_closed():
    async with running(App(), limits=Limits(head_s=0.2)) as server:
        stream = await server.connect(post("X-Do: nothing"))
        await until(stream, b"\r\n\r\n")
        await stream.send_all(b"POST /")
        assert await rest_of(stream) == b""


async def test_a_client_that_does_not_read_a_large_answer_is_cut_off():
    async def respond(receive, send):
        await start(send, (b"content-length", b"20000000"))
        await send({"type": "http.response.body", "body": b"x" * 20_000_000})

    limits = Limits(write_s=0.2, linger_s=LIMITS.linger_s)
    async with running(bare(respond), limits=limits) as server:
        stream = await server.connect(post())
        await trio.sleep(1)
        with suppress(trio.BrokenResourceError):
            assert len(await rest_of(stream)) < 20_000_000


def test_every_kind_of_answer_is_framed():
    def said(status, *headers, bodies=(b"one", b"two")):
        answer = PlainAnswer()
        data = answer.encode({"type": "http.response.start", "status": status, "headers": headers})
        for body in bodies:
            data += answer.encode({"type": "http.response.body", "body": body, "more_body": body is not bodies[-1]})
        assert answer.is_complete
        return data.partition(b"\r\n\r\n")[2]

    assert said(200, (b"content-length", b"6")) == b"onetwo"
    assert said(200) == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    assert said(200, bodies=(b"",)) == b"0\r\n\r\n"
    assert said(204) == b""


async def test_an_app_hears_of_the_end_once_it_has_answered():
    heard = []

    async def respond(receive, send):
        heard.append((await receive())["type"])
        await start(send, (b"content-length", b"5"))
        await send({"type": "http.response.body", "body": b"hello"})
        heard.append((await receive())["type"])

    async with running(bare(respond)) as server:
        stream = await server.connect()
        for _ in range(2):
            await stream.send_all(post().encode())
            await until(stream, b"hello")
        await wait_all_tasks_blocked()
    assert heard == ["http.request", "http.disconnect"] * 2


async def test_what_came_during_the_last_answer_resets_nothing():
    asked, may_answer = trio.Event(), trio.Event()

    async def respond(receive, send):
        asked.set()
        await may_answer.wait()
        await start(send, (b"content-length", b"5"), (b"connection", b"close"))
        await send({"type": "http.response.body", "body": b"hello"})

    async with running(bare(respond)) as server:
        stream = await server.connect(post())
        await asked.wait()
        await stream.send_all(post().encode())
        may_answer.set()
        assert (await rest_of(stream)).endswith(b"hello")


async def test_a_length_that_two_readers_could_read_in_two_ways_hides_no_second_request():
    async with running(App()) as server:
        stream = await server.connect(post(body="").replace(": 0", ": " + "0" * 20 + "62"))
        await stream.send_all(post(body="x" * 20).encode())
        assert (await rest_of(stream)).startswith(b"HTTP/1.1 400 ")
