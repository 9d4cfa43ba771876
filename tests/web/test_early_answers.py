"""An answer that comes before the whole request has: it says that the connection ends with it."""

from __future__ import annotations

import socket

import httpx2
from harness import Server


def test_an_answer_before_the_end_of_the_body_announces_the_end_of_the_connection(server: Server) -> None:
    address = httpx2.URL(server.url)
    head = f"POST /runs/new HTTP/1.1\r\nHost: {address.host}\r\nContent-Length: 5\r\n\r\n"
    with socket.create_connection((address.host, address.port or 80), timeout=10) as raw:
        raw.sendall(head.encode())
        answer = b""
        while data := raw.recv(65536):
            answer += data
    assert answer.startswith(b"HTTP/1.1 303")
    assert b"\r\nconnection: close\r\n" in answer.lower()


def test_a_whole_request_leaves_the_connection_open(server: Server) -> None:
    with httpx2.Client(base_url=server.url, trust_env=False) as client:
        for _ in range(20):
            assert client.post("/runs/new", data={"a": "b"}).status_code == 303
            assert client.get("/login").status_code == 200
