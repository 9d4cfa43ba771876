"""Starting with what is wrong, stopping with what is open."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from harness import Server, eventually

STREAMS = 100
StartRedis = Callable[..., tuple[str, "subprocess.Popen[bytes]"]]


def refused(server: Server, *arguments: str, **environment: str) -> str:
    """What `taskman up` says when it cannot start: one error, no traceback, exit code 1."""
    command = [sys.executable, "-P", "-m", "taskman", "up", "--no-open", *arguments]
    ended = subprocess.run(
        command, capture_output=True, text=True, env={**server.environment, **environment}, timeout=30
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("taskman: ")
    assert "Traceback" not in ended.stderr
    return ended.stderr


@pytest.fixture
def unstarted(tmp_path: Path) -> Server:
    return Server(tmp_path / "data")


def test_a_taken_port_is_named_with_the_remedy(unstarted: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        said = refused(unstarted, "--port", port)
    assert f"port {port}" in said
    assert "--port" in said


def test_an_unreachable_redis_is_named_with_the_remedy(unstarted: Server) -> None:
    said = refused(unstarted, "--port", "0", TASKMAN_REDIS_URL="redis://:secret@127.0.0.1:1/0")
    assert "127.0.0.1:1" in said
    assert "TASKMAN_REDIS_URL" in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("TASKMAN_REDIS_URL", "http://localhost", "redis://"),
        ("TASKMAN_BIND", "127.0.0.1:99999", "port from 0 to 65535"),
        ("TASKMAN_BIND", "0.0.0.0:0", "TASKMAN_ADMIN_TOKEN"),
        ("TASKMAN_WORKERS", "many", "TASKMAN_WORKERS"),
        ("TASKMAN_TIMEZONE", "Mars/Olympus", "TASKMAN_TIMEZONE"),
        ("TASKMAN_DATA_DIR", "/proc/nowhere", "TASKMAN_DATA_DIR"),
        ("TASKMAN_ADMIN_TOKEN", "short", "at least 16 characters"),
        ("TASKMAN_ALLOWED_HOSTS", "*.*", "TASKMAN_ALLOWED_HOSTS"),
    ],
)
def test_a_bad_setting_is_named_with_the_remedy(unstarted: Server, name: str, value: str, part: str) -> None:
    arguments = () if name == "TASKMAN_BIND" else ("--port", "0")
    assert part in refused(unstarted, *arguments, **{name: value})


def test_two_servers_never_share_an_embedded_redis(server: Server) -> None:
    said = refused(server, "--port", "0")
    assert str(server.directory) in said


def test_a_redis_that_evicts_keys_is_refused(unstarted: Server, start_redis: StartRedis) -> None:
    url, _ = start_redis("--maxmemory-policy", "allkeys-lru")
    assert "noeviction" in refused(unstarted, "--port", "0", TASKMAN_REDIS_URL=url)


def test_two_servers_share_one_redis_and_its_work(make_server: Callable[..., Server], start_redis: StartRedis) -> None:
    environment = {"TASKMAN_REDIS_URL": start_redis()[0], "TASKMAN_ADMIN_TOKEN": "a-token-for-both-servers"}
    first = make_server("first", environment=environment)
    second = make_server("second", "--workers", "0", environment=environment)
    assert "volatile" in first.banner
    with first.client() as one, second.client() as two:
        body = {"name": "tick", "type": "shell", "params": {"command": "true"}, "schedules": [{"every": "1s"}]}
        assert one.post("/tasks", json=body).status_code == 201
        run = two.post("/runs", json={"type": "shell", "params": {"command": "echo shared"}}).json()
        assert two.get(f"/runs/{run['id']}?wait=20").json()["state"] == "succeeded"
        assert one.get(f"/runs/{run['id']}/log").text == two.get(f"/runs/{run['id']}/log").text == "shared\n"

        def ticks() -> list[str] | None:
            items = two.get("/runs", params={"task": "tick"}).json()["items"]
            return [item["fire_time"] for item in items] if len(items) >= 4 else None

        times = eventually(ticks)
        assert len(times) == len(set(times))


def test_sigterm_ends_a_server_with_open_streams_in_time(server: Server) -> None:
    with server.client() as api:
        run = api.post("/runs", json={"type": "shell", "params": {"command": "echo x; exec sleep 1000"}}).json()
        eventually(lambda: api.get(f"/runs/{run['id']}/log").text == "x\n")
    address = server.url.removeprefix("http://")
    host, _, port = address.rpartition(":")
    paths = ["/api/v1/events", f"/api/v1/runs/{run['id']}/log"] * (STREAMS // 2)
    streams = [open_stream(host, int(port), path, server.token) for path in paths]
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 5
    for stream in streams:
        rest = b""
        while data := stream.recv(65_536):
            rest += data
        assert rest.endswith(b"0\r\n\r\n"), "the stream was cut, not ended"
        stream.close()
    assert "Traceback" not in server.errors()


def open_stream(host: str, port: int, path: str, token: str) -> socket.socket:
    """A stream of events that has begun."""
    stream = socket.create_connection((host, port), timeout=20)
    head = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {token}\r\nAccept: text/event-stream"
    stream.sendall(f"{head}\r\n\r\n".encode())
    received = b""
    while b": taskman" not in received:
        received += stream.recv(65_536)
    assert received.startswith(b"HTTP/1.1 200")
    return stream


def test_a_stopped_server_releases_what_runs_and_goes_on_after_its_restart(server: Server) -> None:
    with server.client() as api:
        run = api.post("/runs", json={"type": "shell", "params": {"command": "sleep 3; echo done"}}).json()
        eventually(lambda: api.get(f"/runs/{run['id']}").json()["state"] == "running")
    server.environment["TASKMAN_DRAIN_TIMEOUT"] = "0"
    assert server.stop() == 0
    server.start()
    with server.client() as api:
        ended = api.get(f"/runs/{run['id']}?wait=20").json()
    assert ended["state"] == "succeeded"
    assert ended["attempt"] >= 1


def test_an_embedded_redis_that_dies_is_started_again(server: Server) -> None:
    with server.client() as api:
        body = {"type": "shell", "params": {"command": "echo kept"}}
        before = api.get(f"/runs/{api.post('/runs', json=body).json()['id']}?wait=20").json()
        os.kill(redis_of(server), 9)
        eventually(lambda: api.post("/runs", json=body).status_code == 201, "runs are taken again")
        assert api.get(f"/runs/{before['id']}").json()["state"] == "succeeded"
        newest = api.get("/runs").json()["items"][0]["id"]
        assert api.get(f"/runs/{newest}?wait=20").json()["state"] == "succeeded"


def test_a_crash_of_a_service_takes_the_process_down_with_its_reason(server: Server) -> None:
    (server.directory / "redis" / "redis.log").unlink()
    (server.directory / "redis" / "redis.log").mkdir()  # Redis can neither be started again, nor say why
    os.kill(redis_of(server), 9)
    assert server.process is not None
    assert server.process.wait(20) == 1
    assert "taskman: the server crashed" in server.errors()
    assert "redis.log" in server.errors()


def redis_of(server: Server) -> int:
    """The process of its embedded Redis."""
    return next(pid for pid in server.tree() if b"redis" in Path(f"/proc/{pid}/cmdline").read_bytes())


def test_health_answers_while_redis_is_away(make_server: Callable[..., Server], start_redis: StartRedis) -> None:
    url, process = start_redis()
    server = make_server(environment={"TASKMAN_REDIS_URL": url})
    process.kill()
    process.wait()
    with httpx2.Client(base_url=server.url, trust_env=False) as anyone, server.client() as api:
        eventually(lambda: anyone.get("/ready").status_code == 503)
        assert anyone.get("/health").status_code == 200
        refusal = api.post("/runs", json={"type": "shell", "params": {"command": "true"}})
        assert (refusal.status_code, refusal.json()["code"]) == (503, "store_unavailable")
        assert refusal.headers["Retry-After"]
