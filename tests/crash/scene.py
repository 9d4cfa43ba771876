"""The scene of a crash test: servers, Redis, load and trace, each process marked as ours."""

from __future__ import annotations

import secrets
import socket
import subprocess
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx2
import redis
from crash.checker import check
from crash.evidence import PREFIX, Evidence, Process, Snapshot, processes_with, read_ledger, read_marks, read_runs
from crash.load import LIMITED_ROOM, TICK, Load, kinds_of, tasks_of
from harness import Server, eventually

from taskman.store.embedded import find_redis_binary

__all__ = ["RedisServer", "Scene", "free_port"]

_SETTINGS = {"TASKMAN_WORKERS": "8", "TASKMAN_KEEP_RUNS_PER_TASK": "0"}
_WAITING = ("scheduled", "blocked", "queued", "running", "cancelling")


def free_port() -> int:
    """A port of this machine that nobody uses now. A server keeps it over its restarts, as clients expect."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """Somebody else's Redis on a directory that outlives it: AOF everysec, as we recommend."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory, self.socket = directory, directory / "redis.sock"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> RedisServer:
        options = {"port": "0", "unixsocket": str(self.socket), "dir": str(self.directory), "save": "",
                   "appendonly": "yes", "appendfsync": "everysec"}  # fmt: skip
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen([str(find_redis_binary()), *words], stdout=log)
        eventually(partial(_answers, self.socket), "Redis is up")
        return self

    def end(self, *, at_once: bool) -> None:
        """SIGKILL, or SIGTERM that lets it write out everything; and wait until it is gone."""
        assert self.process is not None
        (self.process.kill if at_once else self.process.terminate)()
        self.process.wait(20)
        self.process = None


def _answers(path: Path) -> bool:
    with suppress(redis.ConnectionError, redis.BusyLoadingError), redis.Redis(unix_socket_path=str(path)) as probe:
        return bool(probe.ping())
    return False


class Scene:
    """Everything of one test, and what the checker must know of its faults: see Evidence."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mark = {"CRASH_SCENE": secrets.token_hex(8)}
        self.trace = directory / "trace"
        self.kinds = kinds_of(self.trace)
        self.servers: list[Server] = []
        self.redis: RedisServer | None = None
        self.load: Load | None = None
        self.killed: set[str] = set()
        self.cut: set[str] = set()

    def start_redis(self) -> RedisServer:
        """A Redis of its own, for the servers to come."""
        self.redis = RedisServer(self._directory / "redis")
        return self.redis.start()

    def start_server(self) -> Server:
        """One more server: on the scene's Redis, if it has one, else with its own inside."""
        environment = {**self._mark, **_SETTINGS}
        if self.redis is not None:
            environment["TASKMAN_REDIS_URL"] = self.redis.url
        directory = self._directory / f"data-{len(self.servers)}"
        self.servers.append(Server(directory, "--port", str(free_port()), environment=environment))
        return self.servers[-1].start()

    def start_load(self, rate: float = 20.0) -> Load:
        """Save the tasks, and submit to all servers in turn from now on."""
        with self.client() as client:
            for task in tasks_of(self.kinds):
                reply = client.post("/tasks", json=task)
                assert reply.status_code == 201, reply.text
        self.load = Load(self.servers, self.kinds, rate).start()
        return self.load

    def client(self) -> httpx2.Client:
        """A client of the first server that is up."""
        return next(server for server in self.servers if server.process is not None).client()

    def connection(self) -> redis.Redis:
        """A connection to Redis past the servers."""
        path = self.redis.socket if self.redis else self.servers[0].directory / "redis" / "redis.sock"
        return redis.Redis(unix_socket_path=str(path))

    def snapshot(self) -> Snapshot:
        """The runs and the indexes, now."""
        with self.connection() as connection:
            return Snapshot.take(connection)

    def submit(self, kind: str) -> str:
        """One more run, besides the load; its id."""
        assert self.load is not None
        with self.client() as client:
            reply = client.post(self.kinds[kind].path, json=self.kinds[kind].body())
        assert reply.status_code == 201, reply.text
        self.load.acknowledged[reply.json()["id"]] = kind
        return str(reply.json()["id"])

    def have_enough(self) -> None:
        """Let the runs that go on and on come to their end."""
        self.trace.with_name(f"{self.trace.name}.enough").touch()

    def held_by(self, server: Server) -> list[tuple[str, int]]:
        """The attempts that this server's worker has a lease of."""
        worker = (server.directory / "workers" / "worker-0").read_text()
        with self.connection() as connection:
            ids = [one.decode() for one in connection.zrange(f"{PREFIX}leases", 0, -1)]
            found = [connection.hmget(f"{PREFIX}run:{one}", "worker", "attempt") for one in ids]
        return [(one, int(attempt)) for one, (holder, attempt) in zip(ids, found, strict=True)
                if holder and holder.decode() == worker]  # fmt: skip

    def acknowledged(self, more: int) -> None:
        """Wait until so many more runs are acknowledged."""
        assert self.load is not None
        load, wanted = self.load, len(self.load.acknowledged) + more
        eventually(lambda: len(load.acknowledged) >= wanted, f"{more} more acknowledged: {load.refusals}", 60)

    def executions(self) -> dict[tuple[str, int], Process]:
        """The main process of each attempt that is being executed, by run and attempt."""
        found: dict[tuple[str, int], Process] = {}
        for process in processes_with(**self._mark, TASKMAN_RUN_ID=None):
            attempt = process.environment["TASKMAN_RUN_ID"], int(process.environment["TASKMAN_ATTEMPT"])
            found.setdefault(attempt, process)
        return found

    def at_work(self) -> dict[tuple[str, int], Process]:
        """Those executions that have left their first mark, and not their last."""
        marks = read_marks(self.trace)
        started = {(mark.run_id, mark.attempt) for mark in marks}
        started -= {(mark.run_id, mark.attempt) for mark in marks if mark.kind == "end"}
        return {attempt: process for attempt, process in self.executions().items() if attempt in started}

    def process_of(self, run_id: str, attempt: int = 1) -> Process:
        """Wait until that attempt is at work; its main process."""
        found = eventually(lambda: self.at_work().get((run_id, attempt)), f"{run_id} is at work")
        assert isinstance(found, Process)
        return found

    def check(self, *, within_s: float = 60.0) -> Evidence:
        """Stop the load, wait until nothing waits or runs, and judge what is there; then all must stop cleanly."""
        assert self.load is not None
        self.load.stop()
        self._pause_tick()
        eventually(self._is_quiet, "everything ends by itself", within_s)
        evidence = self._evidence()
        check(evidence)
        for server in self.servers:
            if server.process is not None:
                assert server.stop() == 0, server.errors()[-3000:]
        if self.redis is not None and self.redis.process is not None:
            self.redis.end(at_once=False)
        eventually(lambda: not processes_with(**self._mark), "no process of the scene is left")
        return evidence

    def _pause_tick(self) -> None:
        task = next(task for task in tasks_of(self.kinds) if task["name"] == TICK)
        with self.client() as client:
            reply = client.put(f"/tasks/{TICK}", json={**task, "enabled": False})
            assert reply.status_code == 200, reply.text

    def _is_quiet(self) -> bool:
        with self.connection() as connection:
            return sum(connection.zcard(f"{PREFIX}state:{state}") for state in _WAITING) == 0

    def _evidence(self) -> Evidence:
        assert self.load is not None
        evidence = Evidence(
            acknowledged=set(self.load.acknowledged),
            room={"limited": LIMITED_ROOM},
            killed=self.killed,
            cut=self.cut,
            leftovers=[process.command for process in self.executions().values()],
            marks=read_marks(self.trace),
        )
        with self.client() as client, self.connection() as connection:
            evidence.runs = {run["id"]: run for run in read_runs(client)}
            evidence.ledger = read_ledger(connection, TICK)
            evidence.snapshot = Snapshot.take(connection)
            self._read_logs(client, evidence)
        return evidence

    def _read_logs(self, client: httpx2.Client, evidence: Evidence) -> None:
        kinds = {kind.command: kind for kind in self.kinds.values()}
        for run_id, run in evidence.runs.items():
            if run["state"] == "succeeded":
                evidence.logs[run_id] = client.get(f"/runs/{run_id}/log").text
                kind = kinds[run["params"]["command"]]
                evidence.expected_logs[run_id] = kind.log.replace("{n}", str(run["attempt"]))

    def close(self) -> None:
        """End what still runs, however the test went."""
        if self.load is not None:
            self.load.abandon()
        for server in self.servers:
            if server.process is not None:
                server.kill_tree()
        if self.redis is not None and self.redis.process is not None:
            self.redis.end(at_once=True)
