"""Requests as they leave and answers as they are kept, against a real server on real sockets."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from httpsite import Request, Site, make_certificate, reply, until_closed

from taskman import RetryAfter, TaskFailed

NewSite = Callable[..., Awaitable[Site]]


async def test_the_result_has_status_headers_and_body(asking: Any, site: Site) -> None:
    site.answers["/"] = reply(200, b'{"a": 1}', content_type="application/json", X_Two="2")
    result = await asking(site.url("/?a=b"), query={"c": "ü &"})
    assert {name: result[name] for name in ("status", "body", "truncated")} == {
        "status": 200,
        "body": '{"a": 1}',
        "truncated": False,
    }
    assert result["headers"] == {"content-length": "8", "content-type": "application/json", "x-two": "2"}
    assert site.requests[0].target == "/?a=b&c=%C3%BC+%26"


@pytest.mark.parametrize(
    ("params", "body", "kind"),
    [
        ({"body": "grün"}, "grün".encode(), "text/plain; charset=utf-8"),
        ({"json": {"ü": [1, None]}}, '{"ü":[1,null]}'.encode(), "application/json"),
        ({"body": "<a/>", "headers": {"content-TYPE": "text/xml"}}, b"<a/>", "text/xml"),
        ({"body": ""}, b"", "text/plain; charset=utf-8"),
    ],
)
async def test_bodies_are_sent_with_their_type(
    asking: Any, site: Site, params: dict[str, Any], body: bytes, kind: str
) -> None:
    site.answers["/"] = reply(204)
    await asking(site.url(), method="post", **params)
    (sent,) = site.requests
    assert (sent.method, sent.body, sent.headers["content-type"]) == ("POST", body, kind)
    assert sent.headers["content-length"] == str(len(body))


async def test_a_post_without_a_body_says_so(asking: Any, site: Site) -> None:
    site.answers["/"] = reply(204)
    await asking(site.url(), method="POST")
    assert site.requests[0].headers["content-length"] == "0"


async def test_basic_auth_is_sent_and_never_told(asking: Any, site: Site) -> None:
    site.answers["/"] = reply(200, b"ok", set_cookie="sid=c00kie; Path=/", content_type="text/plain")
    result = await asking(
        site.url("/?token=t0ken&page=2"),
        basic_auth="me:passw0rd",
        headers={"Cookie": "sid=b1scuit", "X-Key": "k3y"},
    )
    assert site.requests[0].headers["authorization"] == "Basic " + base64.b64encode(b"me:passw0rd").decode()
    told = asking.log + json.dumps(result)
    for secret in ("t0ken", "passw0rd", "b1scuit", "k3y", "c00kie", base64.b64encode(b"me:passw0rd").decode()):
        assert secret not in told
    assert "page=2" in asking.log
    assert "authorization" in asking.log
    assert "200 OK" in asking.log


async def test_an_unexpected_status_fails_and_keeps_the_answer(asking: Any, site: Site) -> None:
    site.answers["/"] = reply(500, b"out of cheese", content_type="text/plain")
    with pytest.raises(TaskFailed, match="500 Internal Server Error, expected was 200-299") as caught:
        await asking(site.url())
    assert caught.value.reason == "error"
    assert caught.value.result["body"] == "out of cheese"


async def test_a_status_that_is_expected_succeeds(asking: Any, site: Site) -> None:
    assert (await asking(site.url("/none"), expected_status=[404]))["status"] == 404


@pytest.mark.parametrize(
    ("told", "least", "most"),
    [
        ("7", 7, 7),
        ("99999999999999999999", 86_400, 86_400),
        (format_datetime(datetime.now(UTC) + timedelta(seconds=3000), usegmt=True), 2000, 3000),
        (format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True), 0, 0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_kept_to(
    asking: Any, site: Site, status: int, told: str, least: float, most: float
) -> None:
    site.answers["/"] = reply(status, b"later", content_type="text/plain", retry_after=told)
    with pytest.raises(RetryAfter) as caught:
        await asking(site.url())
    assert least <= caught.value.seconds <= most
    assert caught.value.result["body"] == "later"


@pytest.mark.parametrize(("status", "told"), [(429, "soon"), (503, "-1"), (500, "5")])
async def test_other_retry_after_is_an_ordinary_failure(asking: Any, site: Site, status: int, told: str) -> None:
    site.answers["/"] = reply(status, retry_after=told)
    with pytest.raises(TaskFailed):
        await asking(site.url())


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_answers_without_a_body_are_whole(asking: Any, site: Site, method: str) -> None:
    status = b"200 OK" if method == "HEAD" else b"304 Not Modified"
    site.answers["/"] = b"HTTP/1.1 " + status + b"\r\ncontent-length: 500\r\n\r\n"
    result = await asking(site.url(), method=method, expected_status=["200-399"])
    assert (result["body"], result["truncated"]) == ("", False)


async def test_chunks_are_put_together(asking: Any, site: Site) -> None:
    site.answers["/"] = (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"
        b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\ntrailer: 1\r\n\r\n"
    )
    assert (await asking(site.url()))["body"] == "abcde"


async def test_a_body_beyond_the_limit_is_cut_and_no_longer_read(asking: Any, site: Site) -> None:
    async def endless(request: Request, stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n")
        while True:
            await stream.send_all(b"x" * 65536)

    site.answers["/"] = endless
    result = await asking(site.url(), body_limit=1000)
    assert (result["body"], result["truncated"], result["size"]) == ("x" * 1000, True, None)
    with trio.fail_after(10):
        await site.closed.wait()


@pytest.mark.parametrize(("limit", "is_cut"), [(999, True), (1000, False), (0, True)])
async def test_a_body_of_just_the_limit_is_whole(asking: Any, site: Site, limit: int, is_cut: bool) -> None:
    site.answers["/"] = reply(200, b"x" * 1000, content_type="text/plain")
    result = await asking(site.url(), body_limit=limit)
    assert (len(result["body"]), result["truncated"], result["size"]) == (limit, is_cut, 1000)


async def test_gzip_is_unpacked(asking: Any, site: Site) -> None:
    packed = gzip.compress(b"hello ") + gzip.compress(b"world") + bytes(8)
    site.answers["/"] = reply(200, packed, content_type="text/plain", content_encoding="gzip")
    assert (await asking(site.url()))["body"] == "hello world"
    assert site.requests[0].headers["accept-encoding"] == "gzip"


async def test_a_bomb_is_unpacked_no_further_than_the_limit(asking: Any, site: Site) -> None:
    packer = zlib.compressobj(9, wbits=31)
    packed = b"".join(packer.compress(bytes(1024 * 1024)) for _ in range(64)) + packer.flush()
    site.answers["/"] = reply(200, packed, content_type="text/plain", content_encoding="gzip")
    result = await asking(site.url(), body_limit=1000)
    assert (result["body"], result["truncated"]) == ("\0" * 1000, True)


async def test_packed_data_that_never_becomes_anything_ends_at_the_limit(asking: Any, site: Site) -> None:
    async def nothing(request: Request, stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-type: text/plain\r\n\r\n")
        packer = zlib.compressobj(wbits=31)
        while True:
            await stream.send_all(packer.flush(zlib.Z_FULL_FLUSH) or b"\0\0\0\xff\xff" * 1000)

    site.answers["/"] = nothing
    result = await asking(site.url(), body_limit=1000)
    assert (result["body"], result["truncated"]) == ("", True)


@pytest.mark.parametrize("body", [b"no gzip", gzip.compress(b"hello world", mtime=0)[:-6]], ids=["none", "cut"])
async def test_broken_gzip_fails(asking: Any, site: Site, body: bytes) -> None:
    site.answers["/"] = reply(200, body, content_encoding="gzip")
    with pytest.raises(TaskFailed, match="gzip"):
        await asking(site.url())


PICTURE = b"\x89PNG\r\n\x1a\n\0\xff"


@pytest.mark.parametrize(
    ("headers", "body", "kept"),
    [
        ({"content_type": "image/png"}, PICTURE, None),
        ({}, PICTURE, None),
        ({}, "grün".encode(), "grün"),
        ({"content_type": "application/problem+json"}, b"{}", "{}"),
        ({"content_type": "text/plain; charset=latin-1"}, b"gr\xfcn", "grün"),
        ({"content_type": "text/plain; charset=nonsense"}, b"gr\xfcn", "gr�n"),
        ({"content_type": "text/plain; charset=punycode"}, b"a-b", "a-b"),
        ({"content_type": "text/plain; charset=zlib"}, b"a", "a"),
        ({"content_type": "text/html; charset=utf-16"}, "ä".encode("utf-16"), "ä"),
        ({"content_type": "text/plain", "content_encoding": "br"}, b"\x0b\x02\x80hello", None),
    ],
)
async def test_what_is_no_text_is_left_out_but_for_its_type_and_size(
    asking: Any, site: Site, headers: dict[str, str], body: bytes, kept: str | None
) -> None:
    site.answers["/"] = reply(200, body, **headers)
    result = await asking(site.url())
    assert (result["body"], result["size"], result["truncated"]) == (kept, len(body), False)
    assert result["encoding"] == (None if kept is None else "text")


async def test_any_body_can_be_kept_as_base64(asking: Any, site: Site) -> None:
    site.answers["/"] = reply(200, PICTURE, content_type="image/png")
    result = await asking(site.url(), keep_body="base64")
    assert (base64.b64decode(result["body"]), result["encoding"]) == (PICTURE, "base64")
    assert (await asking(site.url(), keep_body="none"))["body"] is None


async def test_a_character_that_the_limit_cuts_is_left_out(asking: Any, site: Site) -> None:
    site.answers["/"] = reply(200, "aüb".encode(), content_type="text/plain")
    assert (await asking(site.url(), body_limit=2))["body"] == "a"


@pytest.mark.parametrize(("body", "keep"), [(b"\0", "text"), ("ü".encode(), "text"), (b"\xff", "base64")])
async def test_the_result_fits_whatever_the_body(asking: Any, site: Site, body: bytes, keep: str) -> None:
    site.answers["/"] = reply(200, body * (512 * 1024 // len(body)), content_type="text/plain", x="\xff" * 90_000)
    result = await asking(site.url(), body_limit=512 * 1024, keep_body=keep)
    assert 512 * 1024 < len(json.dumps(result)) < 1024 * 1024
    assert result["truncated"] is (keep == "text")


async def test_redirects_are_followed_and_told(asking: Any, site: Site) -> None:
    site.answers |= {"/": reply(302, location="/b?x=1"), "/b": reply(200, b"end", content_type="text/plain")}
    result = await asking(site.url())
    assert (result["body"], result["url"]) == ("end", site.url("/b?x=1"))
    assert "302 Found" in asking.log
    assert f"to {site.url('/b?x=1')}" in asking.log


async def test_redirects_have_a_limit(asking: Any, site: Site) -> None:
    site.answers["/"] = reply(302, location="/")
    with pytest.raises(TaskFailed, match="more than 3 redirects") as caught:
        await asking(site.url(), max_redirects=3)
    assert len(site.requests) == 4
    assert caught.value.result["status"] == 302


@pytest.mark.parametrize("params", [{"max_redirects": 0, "expected_status": ["200-399"]}, {"expected_status": [302]}])
async def test_a_redirect_that_is_expected_is_the_answer(asking: Any, site: Site, params: dict[str, Any]) -> None:
    site.answers["/"] = reply(302, location="/elsewhere")
    assert (await asking(site.url(), **params))["headers"]["location"] == "/elsewhere"
    assert len(site.requests) == 1


@pytest.mark.parametrize(
    ("status", "method", "then", "body"),
    [
        (301, "POST", "GET", b""),
        (302, "POST", "GET", b""),
        (302, "PUT", "PUT", b"x"),
        (303, "PUT", "GET", b""),
        (303, "HEAD", "HEAD", b""),
        (307, "POST", "POST", b"x"),
        (308, "DELETE", "DELETE", b"x"),
    ],
)
async def test_the_method_after_a_redirect_is_as_http_has_it(
    asking: Any, site: Site, status: int, method: str, then: str, body: bytes
) -> None:
    site.answers |= {"/": reply(status, location="/b"), "/b": reply(204)}
    given = {} if method == "HEAD" else {"body": "x"}
    await asking(site.url(), method=method, **given)
    second = site.requests[1]
    assert (second.method, second.body) == (then, body)
    assert ("content-type" in second.headers) is bool(body)


async def test_credentials_stay_with_their_origin(asking: Any, new_site: NewSite) -> None:
    other = await new_site(b=reply(204))
    site = await new_site(a=reply(307, location=other.url("/b")))
    own = {"Authorization": "Bearer s", "Cookie": "a=b", "X-Api-Key": "k", "Accept": "text/x"}
    await asking(site.url("/a"), headers=own)
    assert {name.lower() for name in own} <= set(site.requests[0].headers)
    assert set(other.requests[0].headers) & {name.lower() for name in own} == {"accept"}
    assert other.requests[0].headers["host"] == f"127.0.0.1:{other.port}"


async def test_credentials_go_along_within_their_origin(asking: Any, site: Site) -> None:
    site.answers |= {"/": reply(302, location="/b"), "/b": reply(204)}
    await asking(site.url(), headers={"Authorization": "Bearer s"})
    assert site.requests[1].headers["authorization"] == "Bearer s"


@pytest.mark.parametrize("place", ["http://[/", "ftp://127.0.0.1/", "http://u:p@127.0.0.1/", "http://h:0/", "//\x80/"])
async def test_a_redirect_to_nowhere_fails_with_the_answer(asking: Any, site: Site, place: str) -> None:
    site.answers["/"] = reply(302, location=place)
    with pytest.raises(TaskFailed, match="redirect cannot be followed") as caught:
        await asking(site.url())
    assert caught.value.result["status"] == 302
    assert "u:p" not in asking.log + json.dumps(caught.value.result)


async def test_tls_is_verified_by_name_and_authority(asking: Any, new_site: NewSite, certificate: Path) -> None:
    site = await new_site(certificate, a=reply(204))
    with pytest.raises(TaskFailed, match=r"not trusted .*ca_file"):
        await asking(site.url("/a", "localhost"))
    with pytest.raises(TaskFailed, match=r"not trusted .*mismatch"):
        await asking(site.url("/a"), ca_file=str(certificate))
    assert site.requests == []
    assert (await asking(site.url("/a", "localhost"), ca_file=str(certificate)))["status"] == 204
    assert (await asking(site.url("/a"), verify_tls=False))["status"] == 204


async def test_a_ca_file_that_is_written_anew_counts_at_once(asking: Any, new_site: NewSite, tmp_path: Path) -> None:
    authority = make_certificate(tmp_path / "first.pem")
    second = make_certificate(tmp_path / "second.pem")
    site = await new_site(second, a=reply(204))
    with pytest.raises(TaskFailed, match="not trusted"):
        await asking(site.url("/a", "localhost"), ca_file=str(authority))
    second.replace(authority)
    assert (await asking(site.url("/a", "localhost"), ca_file=str(authority)))["status"] == 204


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), ("nonsense", "cannot read")])
async def test_a_ca_file_that_cannot_be_read_is_named(
    asking: Any, tmp_path: Path, content: str | None, why: str
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(TaskFailed, match=why):
        await asking("https://127.0.0.1:1/", ca_file=str(path))


async def test_no_redirect_leads_from_https_to_http_unless_asked(
    asking: Any, new_site: NewSite, certificate: Path
) -> None:
    plain = await new_site(b=reply(204))
    site = await new_site(certificate, a=reply(302, location=plain.url("/b")))
    trusting = {"ca_file": str(certificate)}
    with pytest.raises(TaskFailed, match="allow_downgrade"):
        await asking(site.url("/a", "localhost"), **trusting)
    assert plain.connections == 0
    assert (await asking(site.url("/a", "localhost"), allow_downgrade=True, **trusting))["status"] == 204


async def test_a_redirect_to_https_is_verified(asking: Any, new_site: NewSite, certificate: Path) -> None:
    site = await new_site(certificate, a=reply(204))
    plain = await new_site(b=reply(302, location=site.url("/a", "localhost")))
    with pytest.raises(TaskFailed, match="not trusted"):
        await asking(plain.url("/b"))


async def test_a_refused_connection_is_told_with_its_reason(asking: Any) -> None:
    with pytest.raises(TaskFailed, match=r"no connection to 127\.0\.0\.1:1: Connection refused") as caught:
        await asking("http://127.0.0.1:1/")
    assert caught.value.reason == "error"


async def test_a_name_without_an_address_is_told(asking: Any) -> None:
    with pytest.raises(TaskFailed, match=r"'nowhere\.invalid' cannot be resolved"):
        await asking("http://nowhere.invalid/")


async def test_http_where_https_is_expected_is_told(asking: Any, site: Site) -> None:
    with pytest.raises(TaskFailed, match=r"no TLS with 127\.0\.0\.1:\d+ .*http:// address"):
        await asking(f"https://127.0.0.1:{site.port}/")


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", b"HTTP/1.1 200 OK\r\nx"],
)
async def test_an_answer_that_breaks_off_fails(asking: Any, site: Site, answer: bytes) -> None:
    site.answers["/"] = answer
    with pytest.raises(TaskFailed, match=r"127\.0\.0\.1:\d+ breaks off|broke"):
        await asking(site.url())


async def test_headers_without_end_are_refused(asking: Any, site: Site) -> None:
    async def endless(request: Request, stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n")
        while True:
            await stream.send_all(b"x: " + b"y" * 1000 + b"\r\n")

    site.answers["/"] = endless
    with pytest.raises(TaskFailed, match="breaks off"):
        await asking(site.url())


async def test_a_silent_server_is_given_up(asking: Any, site: Site) -> None:
    site.answers["/"] = until_closed
    with pytest.raises(TaskFailed, match=r"silent for 0\.1 s"):
        await asking(site.url(), read_timeout=0.1)


async def test_cancelling_closes_the_connection(asking: Any, site: Site) -> None:
    waiting, gone = trio.Event(), trio.Event()

    async def wait(request: Request, stream: trio.abc.Stream) -> None:
        waiting.set()
        await until_closed(request, stream)
        gone.set()

    site.answers["/"] = wait
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asking, site.url())
            await waiting.wait()
            nursery.cancel_scope.cancel()
        await gone.wait()
