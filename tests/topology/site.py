"""What docker-compose.yml describes, as plain processes: the same commands, settings, secrets and balancer.

Names are answered by a server of our own, as Docker's does in a network of containers: each address of 127.0.0.0/8 is
a machine of its own, with the same port.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from harness import descendants, eventually

from taskman.store.embedded import find_redis_binary

ROOT = Path(__file__).parents[2]
BALANCER = ROOT / "deploy" / "haproxy.cfg"
INSTALL = "HAProxy is missing: apt-get install haproxy"


def compose() -> dict[str, Any]:
    """docker-compose.yml, with `${NAME:-default}` as it reads when nothing is set."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / "docker-compose.yml").read_text())
    services: dict[str, Any] = yaml.safe_load(text)["services"]
    return services


def haproxy() -> str:
    """The program; without it the test fails where it must not be skipped."""
    if path := shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin"):
        return path
    if os.environ.get("CI"):
        pytest.fail(INSTALL)
    pytest.skip(INSTALL)


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """A port that is free on every address of this machine."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("0.0.0.0", 0))
        port: int = sock.getsockname()[1]
        return port


class Names(threading.Thread):
    """A name server on UDP that knows one name: whatever is asked for has the addresses of the moment."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.known: list[str] = []

    def run(self) -> None:
        with suppress(OSError):
            while True:
                query, client = self._socket.recvfrom(4096)
                if not query:
                    return
                self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        end = query.index(b"\0", 12) + 5
        wants_v4 = query[end - 4 : end - 2] == b"\0\1"
        records = [_record(address) for address in self.known if wants_v4]
        head = query[:2] + struct.pack("!HHHHH", 0x8180, 1, len(records), 0, 0)
        return head + query[12:end] + b"".join(records)

    def close(self) -> None:
        host, _, port = self.address.partition(":")
        self._socket.sendto(b"", (host, int(port)))
        self.join(5)
        self._socket.close()


def _record(address: str) -> bytes:
    return b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 1, 4) + socket.inet_aton(address)


class Part:
    """One process of the site, which can be ended and started again."""

    def __init__(self, name: str, directory: Path, command: list[str], environment: dict[str, str], cwd: Path) -> None:
        self.name, self.directory, self._command, self._cwd = name, directory, command, cwd
        clean = {key: value for key, value in os.environ.items() if not key.startswith("TASKMAN_")}
        self._environment = {**clean, **environment}
        self.process: subprocess.Popen[bytes] | None = None
        directory.mkdir(exist_ok=True)

    @property
    def log(self) -> Path:
        return self.directory.with_suffix(".log")

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environment, cwd=self._cwd, start_new_session=True
            )

    def kill(self) -> None:
        """SIGKILL for it and all below it."""
        assert self.process is not None
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        self.process = None

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(30)
        self.process = None
        return code


class Replica(Part):
    """One of the servers, on an address of its own."""

    address = label = ""

    @property
    def is_ready(self) -> bool:
        with suppress(httpx2.TransportError):
            return httpx2.get(f"http://{self.address}/ready", trust_env=False, timeout=5).status_code == 200
        return False


End = Callable[[Replica], object]
ENDS = [pytest.param(Replica.kill, id="killed"), pytest.param(Replica.stop, id="stopped")]


class Site:
    """Redis, servers and the balancer, from the files that are shipped, unless the balancer is given another."""

    def __init__(self, directory: Path, config: Path = BALANCER) -> None:
        self.directory, self._secrets, self._services = directory, directory / "secrets", compose()
        self._parts: list[Part] = []
        self.names = Names()
        self._port = free_port()
        redis_port, pages, api, figures = (free_port() for _ in range(4))
        self._figures_url = f"http://127.0.0.1:{figures}"
        self.pages, self.url = f"http://127.0.0.1:{pages}", f"http://127.0.0.1:{api}"
        script = ROOT / "deploy" / "make_secrets.py"
        subprocess.run(
            [sys.executable, script, self._secrets, f"127.0.0.1:{redis_port}"], check=True, capture_output=True
        )
        self.admin_token = (self._secrets / "server" / "admin-token").read_text().strip()
        self.worker_token = (self._secrets / "worker" / "token").read_text().strip()
        self.redis = self._redis(redis_port)
        self.servers: list[Replica] = []
        self.balancer = self._balancer(config, pages, api, figures)

    def _redis(self, port: int) -> Part:
        program, config, *options = self._services["redis"]["command"]
        assert (program, config) == ("redis-server", "/run/taskman/redis.conf")
        given = [str(find_redis_binary()), str(self._secrets / "redis" / "redis.conf"), *options]
        more = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.directory / "redis")]
        return self._part(Part, "redis", [*given, *more], {}, self.directory)

    def _balancer(self, config: Path, pages: int, api: int, figures: int) -> Part:
        environment = {
            "TASKMAN_PAGES": f"127.0.0.1:{pages}",
            "TASKMAN_API": f"127.0.0.1:{api}",
            "TASKMAN_FIGURES": f"127.0.0.1:{figures}",
            "TASKMAN_UPSTREAM": f"server:{self._port}",
            "TASKMAN_DNS": self.names.address,
        }
        return self._part(Part, "balancer", [haproxy(), "-W", "-db", "-f", str(config)], environment, self.directory)

    def _part(self, kind: type[Any], name: str, *rest: Any) -> Any:
        part = kind(name, self.directory / name, *rest)
        self._parts.append(part)
        return part

    def add_server(self, *options: str) -> Replica:
        """One more server, started; the balancer learns of it from the names."""
        number = len(self.servers) + 1
        service = self._services["server"]
        command = [sys.executable, "-P", "-m", "taskman", *service["command"], *options]
        address = f"127.0.0.{number + 1}"
        own = {
            "TASKMAN_DATA_DIR": str(self.directory / f"server-{number}"),
            "TASKMAN_BIND": f"{address}:{self._port}",
            "TASKMAN_LABELS": f"node={number}",
        }
        environment = {**service["environment"], **own}
        server: Replica = self._part(Replica, f"server-{number}", command, environment, self._secrets / "server")
        server.address, server.label = f"{address}:{self._port}", str(number)
        self.servers.append(server)
        server.start()
        self.names.known = [*self.names.known, address]
        return server

    def add_worker(self, *options: str) -> Part:
        """One more worker node, started; it knows the balancer and nothing else."""
        number = 1 + sum(part.name.startswith("worker-") for part in self._parts)
        service = self._services["worker"]
        given = [self.url if part == "http://balancer:8080" else part for part in service["command"]]
        assert self.url in given
        environment = {
            **service["environment"],
            "TASKMAN_TOKEN_FILE": str(self._secrets / "worker" / "token"),
            "TASKMAN_DATA_DIR": str(self.directory / f"worker-{number}"),
        }
        command = [sys.executable, "-P", "-m", "taskman", *given, *options]
        worker: Part = self._part(Part, f"worker-{number}", command, environment, self.directory)
        worker.start()
        return worker

    def start(self, servers: int, *options: str) -> Site:
        """Everything, until the balancer has found every server."""
        self.names.start()
        self.redis.start()
        for _ in range(servers):
            self.add_server(*options)
        for server in self.servers:
            eventually(lambda server=server: server.is_ready, f"{server.name} is ready", 40)
        self.balancer.start()
        self.until_all_serve()
        return self

    def client(self, token: str = "") -> httpx2.Client:
        """A client of the API, through the balancer, with the administrator's token unless another is given."""
        headers = {"Authorization": f"Bearer {token or self.admin_token}"}
        return httpx2.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=90, trust_env=False)

    def until_all_serve(self) -> None:
        """Wait until the balancer sends requests to each server that runs."""
        for server in self.servers:
            if server.process is not None:
                eventually(lambda server=server: server.is_ready, f"{server.name} is ready", 40)
                eventually(lambda server=server: self._is_used(server), f"the balancer uses {server.name}")

    def _is_used(self, server: Replica) -> bool:
        return any(row["addr"] == server.address and row["status"].startswith("UP") for row in self._figures())

    def _figures(self) -> list[dict[str, str]]:
        """What the balancer says of each server that it knows."""
        with suppress(httpx2.TransportError):
            text = httpx2.get(f"{self._figures_url}/;csv", trust_env=False).text.removeprefix("# ")
            return [row for row in csv.DictReader(text.splitlines()) if row["pxname"] == "ready"]
        return []

    def ask_who_serves(self, within_s: float = 10) -> str:
        """The address of the server that has answered a request just now, or nothing."""
        with suppress(httpx2.TransportError):
            reply = httpx2.get(f"{self.url}/health", trust_env=False, timeout=within_s)
            return self.address_of(reply)
        return ""

    def address_of(self, reply: httpx2.Response) -> str:
        """Which server this answer came from."""
        return self._address(reply.headers.get("X-Served-By", ""))

    def server_named(self, name: str) -> Replica:
        """The server that the balancer calls so."""
        return next(one for one in self.servers if one.address == self._address(name))

    def _address(self, name: str) -> str:
        return next((row["addr"] for row in self._figures() if row["svname"] == name), "")

    def close(self) -> None:
        """End whatever is left."""
        for part in reversed(self._parts):
            if part.process is not None:
                part.kill()
        if self.names.is_alive():
            self.names.close()
