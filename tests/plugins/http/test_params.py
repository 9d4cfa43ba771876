"""What cannot be sent is refused at submit, beside its field, with the remedy."""

from __future__ import annotations

from typing import Any

import pytest

from taskman.errors import InvalidInput
from taskman.plugins import discover
from taskman_http import HttpParams


def faults(**params: Any) -> dict[str, str]:
    with pytest.raises(InvalidInput) as caught:
        discover().read_params("http", {"url": "http://example.com/", **params})
    return {fault.pointer: fault.detail for fault in caught.value.faults}


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("", "http://"),
        ("example.com", "http://"),
        ("ftp://example.com/", "http://"),
        ("file:///etc/passwd", "http://"),
        ("gopher://example.com/", "http://"),
        ("http:///path", "no host"),
        ("http://a b/", "no host"),
        ("http://-x/", "no host"),
        ("http://[::1/", "no"),
        ("http://[fe80::1%25eth0]/", "no host"),
        (f"http://{'a.' * 127}com/", "no host"),
        ("http://h:0/", "port"),
        ("http://h:99999/", "port"),
        ("http://h:port/", "no URL"),
        ("http://user:secret@example.com/", "basic_auth"),
        ("http://example.com/\r\nX-Injected: yes", "no URL"),
        ("http://exa\0mple.com/", "no URL"),
        ("http://１２７.0.0.1/", "no URL"),
    ],
)
def test_what_is_no_url_of_the_web_is_refused(url: str, remedy: str) -> None:
    assert remedy in faults(url=url)["/params/url"]


@pytest.mark.parametrize(
    "url",
    [
        "http://bücher.example/ä?q=1 2",
        "https://[::1]:8443/a",
        "HTTP://EXAMPLE.com.",
        " http://a_b.internal:81/ ",
        "http://h?x#part",
    ],
)
def test_urls_as_people_write_them_are_taken(url: str) -> None:
    discover().read_params("http", {"url": url})


@pytest.mark.parametrize(
    ("headers", "remedy"),
    [
        ({"X": "a\r\nEvil: b"}, "one line"),
        ({"X": "a\nb"}, "one line"),
        ({"X": "a\0"}, "one line"),
        ({"X": "grün"}, "ASCII"),
        ({"X\r\nEvil": "b"}, "no name"),
        ({"": "b"}, "no name"),
        ({"X: y": "b"}, "no name"),
        ({"Content-Length": "5"}, "leave it out"),
        ({"transfer-encoding": "chunked"}, "leave it out"),
        ({"Connection": "upgrade"}, "leave it out"),
        ({"Accept": "a", "accept": "b"}, "twice"),
    ],
)
def test_headers_that_would_change_the_request_are_refused(headers: dict[str, str], remedy: str) -> None:
    assert remedy in faults(headers=headers)["/params/headers"]


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "GET /x HTTP/1.1\r\n", "", 3])
def test_other_methods_are_refused(method: object) -> None:
    assert "'GET'" in faults(method=method)["/params/method"]


def test_a_method_may_be_in_lower_case() -> None:
    assert HttpParams.model_validate({"url": "http://h", "method": "post"}).method == "POST"


@pytest.mark.parametrize("statuses", [["2xx"], ["99"], ["600"], ["300-200"], [True], [], [2.5], "200-"])
def test_what_is_no_status_is_refused(statuses: object) -> None:
    assert any(pointer.startswith("/params/expected_status") for pointer in faults(expected_status=statuses))


@pytest.mark.parametrize(
    ("statuses", "status", "is_expected"),
    [
        (["200-299"], 204, True),
        (["200-299"], 300, False),
        ([200, "301-302", " 404 "], 301, True),
        ([200, "301-302"], 303, False),
        (404, 404, True),
    ],
)
def test_expected_statuses_are_codes_and_ranges(statuses: object, status: int, is_expected: bool) -> None:
    params = HttpParams.model_validate({"url": "http://h", "expected_status": statuses})
    assert params.expects(status) is is_expected


@pytest.mark.parametrize(
    ("params", "remedy"),
    [
        ({"body": "x", "json": {}}, "not both"),
        ({"basic_auth": "nobody"}, "user:password"),
        ({"basic_auth": "a:b", "headers": {"authorization": "c"}}, "not both"),
        ({"ca_file": "/ca.pem", "verify_tls": False}, "leave one"),
        ({"body": "\ud800"}, "cannot be sent"),
        ({"json": float("nan")}, "cannot be sent"),
    ],
)
def test_params_that_contradict_each_other_are_refused(params: dict[str, Any], remedy: str) -> None:
    assert remedy in faults(**params)["/params"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("body_limit", 512 * 1024 + 1),
        ("body_limit", -1),
        ("max_redirects", 21),
        ("connect_timeout", 0),
        ("read_timeout", "soon"),
        ("read_timeout", "2d"),
        ("keep_body", "all"),
    ],
)
def test_limits_have_limits(name: str, value: object) -> None:
    assert f"/params/{name}" in faults(**{name: value})


def test_an_unknown_param_is_named_with_the_nearest() -> None:
    assert "'url'" in faults(uri="x")["/params/uri"]


def test_timeouts_are_durations() -> None:
    params = HttpParams.model_validate({"url": "http://h", "connect_timeout": 2.5, "read_timeout": "5m"})
    assert (params.connect_timeout, params.read_timeout) == (2.5, 300.0)
