"""The balancer as it is shipped, in front of two servers: what it passes on, repeats, refuses and says itself."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path

import httpx2
import pytest
from harness import eventually
from topology.site import BALANCER, Site, haproxy


def test_the_configuration_is_valid_without_a_warning() -> None:
    checked = subprocess.run([haproxy(), "-dW", "-c", "-f", BALANCER], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr


def test_both_servers_answer_on_both_ports(site: Site) -> None:
    for url in (site.pages, site.url):
        with httpx2.Client(base_url=url, trust_env=False) as http:
            seen = {site.address_of(http.get("/ready")) for _ in range(20)}
        assert seen == {server.address for server in site.servers}


def test_the_host_is_passed_on_and_judged_by_the_servers(site: Site) -> None:
    for host, status in (("balancer:8080", 200), ("localhost", 200), ("evil.example", 421)):
        assert httpx2.get(f"{site.url}/health", headers={"Host": host}, trust_env=False).status_code == status


def test_a_body_beyond_the_limit_is_refused_before_it_is_sent(site: Site) -> None:
    host, _, port = site.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(b"POST /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16777217\r\n\r\n")
        head, _, body = sock.recv(65536).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    assert json.loads(body)["code"] == "request_entity_too_large"


def test_a_body_of_the_limit_reaches_the_servers(site: Site) -> None:
    with site.client() as http:
        reply = http.post("/runs", content=b" " * 16_777_216, headers={"Content-Type": "application/json"})
    assert (reply.status_code, reply.json()["code"]) == (400, "bad_request")


def test_a_server_that_is_added_gets_requests(site: Site) -> None:
    third = site.add_server("--workers", "0")
    site.until_all_serve()
    site.names.known = site.names.known[:2]
    site.servers.remove(third)
    assert third.stop() == 0
    with site.client() as http:
        assert [http.get("/queues").status_code for _ in range(20)] == [200] * 20


def test_a_request_on_its_way_to_a_dead_server_is_answered_by_the_other(site: Site) -> None:
    with site.client() as http:
        site.servers[0].kill()
        replies = [http.post("/runs", json={"type": "shell", "params": {"command": "true"}}) for _ in range(20)]
    assert [reply.status_code for reply in replies] == [201] * 20
    assert {site.address_of(reply) for reply in replies} == {site.servers[1].address}


def test_without_any_server_the_balancer_says_so_and_when_to_repeat(site: Site) -> None:
    for server in site.servers:
        assert server.stop() == 0
    with site.client() as http:
        reply = http.get("/runs")
    assert (reply.status_code, reply.json()["code"], reply.headers["Retry-After"]) == (503, "no_server", "1")


def test_without_redis_the_servers_still_speak_for_themselves(tmp_path: Path) -> None:
    haproxy()
    site = Site(tmp_path)
    try:
        site.start(1, "--workers", "0")
        site.redis.kill()

        def answer() -> tuple[int, str]:
            reply = httpx2.get(f"{site.url}/ready", trust_env=False)
            return reply.status_code, reply.json()["code"]

        eventually(lambda: answer() == (503, "store_unavailable"))
        # Past the moment at which the balancer has noticed: it sends the request to a server all the same.
        eventually(lambda: " alive/" in site.balancer.log.read_text() if answer()[0] == 503 else False)
        assert answer() == (503, "store_unavailable")
        assert httpx2.get(f"{site.url}/health", trust_env=False).status_code == 200
    finally:
        site.close()


@pytest.mark.slow
def test_a_server_that_stands_still_gets_nothing_new(site: Site) -> None:
    still, other = site.servers
    assert still.process is not None
    still.process.send_signal(signal.SIGSTOP)

    try:
        eventually(
            lambda: all(site.ask_who_serves(within_s=1) == other.address for _ in range(5)),
            "every request goes to the other server",
        )
    finally:
        still.process.send_signal(signal.SIGCONT)


@pytest.mark.slow
def test_a_request_that_drips_in_is_ended(site: Site) -> None:
    host, _, port = site.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 408 ")
