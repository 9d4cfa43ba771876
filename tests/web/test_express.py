"""The short way to a run answers as the app does: each request is sent down both ways, and the answers compared."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import httpx2
import pytest
from harness import Server

SHORT, LONG = "application/json", "application/json; charset=utf-8"  # the app takes what is not plain
_OF_THIS_ONE = ("date", "x-request-id", "location", "connection")  # an answer before the body has come ends it
RUN = {"type": "shell", "params": {"command": "true"}, "delay": "1h"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all: nothing here runs."""
    started = Server(tmp_path_factory.mktemp("express") / "data").start()
    yield started
    started.stop()


def post(server: Server, kind: str, content: bytes, headers: Mapping[str, str]) -> httpx2.Response:
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=30) as http:
        return http.post("/api/v1/runs", content=content, headers={"Content-Type": kind, **headers})


def shape(reply: httpx2.Response) -> tuple[int, Any, dict[str, str]]:
    """Status, document and headers without what differs from one request to the next."""
    document = reply.json()
    for name in ("id", "created_at", "due_at", "history", "request_id"):
        document.pop(name, None)
    told = {name: value for name, value in reply.headers.items() if name not in _OF_THIS_ONE}
    return reply.status_code, document, told | {"content-length": ""}


@pytest.mark.parametrize("key", [None, "once", "", "x" * 256])
@pytest.mark.parametrize(
    "content",
    [
        json.dumps(RUN).encode(),
        json.dumps({**RUN, "params": {"command": "äöü"}, "priority": 3, "env": {"A": "b"}}).encode(),
        b'{"type": "shel"}',
        b'{"type": "shell", "params": {"comand": 1}, "prio": 1}',
        b'{"task": "none"}',
        b"[]",
        b"{",
        b"",
        b"\xff",
    ],
)
def test_both_ways_give_the_same_answer(server: Server, content: bytes, key: str | None) -> None:
    headers = {"Authorization": f"Bearer {server.token}"} | ({} if key is None else {"Idempotency-Key": key})
    short = post(server, SHORT, content, headers | ({"Idempotency-Key": "other"} if key == "once" else {}))
    assert shape(short) == shape(post(server, LONG, content, headers))


@pytest.mark.parametrize("token", ["Bearer wrong", "Bearer", "Basic eA==", ""])
def test_both_ways_refuse_the_same_tokens(server: Server, token: str) -> None:
    content, headers = json.dumps(RUN).encode(), {"Authorization": token}
    short = post(server, SHORT, content, headers)
    assert short.status_code == 401
    assert shape(short) == shape(post(server, LONG, content, headers))


def test_both_ways_refuse_a_token_that_may_only_read(server: Server) -> None:
    with server.client() as admin:
        token = admin.post("/tokens", json={"scope": "read"}).json()["token"]
    content, headers = json.dumps(RUN).encode(), {"Authorization": f"Bearer {token}"}
    short = post(server, SHORT, content, headers)
    assert short.status_code == 403
    assert shape(short) == shape(post(server, LONG, content, headers))


def test_a_key_that_went_one_way_is_known_on_the_other(server: Server) -> None:
    content = json.dumps(RUN).encode()
    headers = {"Authorization": f"Bearer {server.token}", "Idempotency-Key": "across"}
    first = post(server, SHORT, content, headers)
    again = post(server, LONG, content, headers)
    third = post(server, SHORT, content, headers)
    assert [reply.status_code for reply in (first, again, third)] == [201, 200, 200]
    assert again.json()["id"] == third.json()["id"] == first.json()["id"]
    assert again.headers["Idempotent-Replayed"] == third.headers["Idempotent-Replayed"] == "true"
    assert first.headers["Location"] == f"/api/v1/runs/{first.json()['id']}"


def test_a_client_that_leaves_within_its_body_leaves_no_run(server: Server) -> None:
    with server.client() as http:
        before = http.get("/runs").json()["items"]
        head = f"POST /api/v1/runs HTTP/1.1\r\nHost: {http.base_url.host}\r\nAuthorization: Bearer {server.token}\r\n"
        with socket.create_connection((http.base_url.host, http.base_url.port)) as raw:
            raw.sendall(f'{head}Content-Type: application/json\r\nContent-Length: 500\r\n\r\n{{"type":'.encode())
        assert http.get("/runs").json()["items"] == before
