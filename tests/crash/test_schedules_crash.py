"""Schedules by the hundred, due every second, and servers that are killed at random: each instant has one outcome."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path

import pytest
import redis
from crash.evidence import PREFIX, LedgerLine, read_ledger
from crash.scene import RedisServer, free_port
from harness import Server, eventually

SERVERS = 3
SECONDS = int(os.environ.get("TASKMAN_TEST_SCHEDULES_SECONDS", "40"))
MINUTES = float(os.environ.get("TASKMAN_TEST_SOAK_MINUTES", "30"))
KEPT_S = 900  # the ledger and the runs of a task are kept no longer


class Firing:
    """Servers without workers on one Redis, and tasks that are due every second."""

    def __init__(self, directory: Path, tasks: int) -> None:
        self.redis = RedisServer(directory / "redis").start()
        environment = {"TASKMAN_REDIS_URL": self.redis.url, "TASKMAN_KEEP_RUNS": "0"}
        options = ("--workers", "0", "--port")
        self.servers = [
            Server(directory / f"data-{number}", *options, str(free_port()), environment=environment)
            for number in range(SERVERS)
        ]
        self.names = [f"tick-{number:03}" for number in range(tasks)]

    def start(self) -> None:
        """Start all servers, and save the tasks on the first."""
        for server in self.servers:
            server.start()
        schedule = {"every": "1s", "anchor": "2026-01-01T00:00:00Z", "catchup": "all", "catchup_max": 1000}
        body = {"type": "shell", "params": {"command": "true"}, "schedules": [schedule], "overlap": "allow"}
        with self.servers[0].client() as client:
            for name in self.names:
                assert client.put(f"/tasks/{name}", json=body).status_code == 201
        eventually(self.newest_s, "every task has been due")

    def close(self) -> None:
        """Whatever is left is killed."""
        for server in self.servers:
            if server.process is not None:
                server.kill_tree()
        self.redis.end(at_once=True)

    def connection(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.redis.socket))

    def newest_s(self) -> int:
        """The newest instant that has an outcome, for every task: epoch s."""
        with self.connection() as connection:
            pipe = connection.pipeline()
            for name in self.names:
                pipe.zrange(f"{PREFIX}task:{name}:ledger", -1, -1, withscores=True)
            found = pipe.execute()
        return min(int(one[0][1]) // 1000 if one else 0 for one in found)

    def pass_time(self, seconds: int) -> None:
        """Wait until so many more instants have their outcome."""
        until = self.newest_s() + seconds
        eventually(lambda: self.newest_s() >= until, "schedules go on", within_s=60)

    def torment(self, chance: random.Random, seconds: int) -> int:
        """Kill and restart servers at random for so long; how many were killed."""
        until, killed = self.newest_s() + seconds, 0
        while self.newest_s() < until:
            victims = chance.sample(self.servers, chance.choice((1, 1, 2, SERVERS)))
            for server in victims:
                server.kill_tree()
            killed += len(victims)
            if len(victims) < SERVERS:
                self.pass_time(chance.randrange(1, 4))
            for server in victims:
                server.start()
            self.pass_time(chance.randrange(1, 6))
        return killed

    def ledgers(self) -> dict[str, list[LedgerLine]]:
        with self.connection() as connection:
            return {name: read_ledger(connection, name) for name in self.names}

    def run_ids(self) -> Counter[str]:
        """The runs that there are, by id, with the number of indexes that name each."""
        with self.connection() as connection:
            states = [key.decode() for key in connection.keys(f"{PREFIX}state:*")]
            return Counter(one.decode() for one in chain(*(connection.zrange(key, 0, -1) for key in states)))


def check(ledgers: dict[str, list[LedgerLine]], runs: Counter[str]) -> None:
    """Every instant from the first to the last has exactly one outcome, and each that fired has its one run."""
    named: Counter[str] = Counter()
    for name, lines in ledgers.items():
        for earlier, later in pairwise(lines):
            assert later.first_ms == earlier.last_ms + 1000, f"{name}: after {earlier} comes {later}"
        assert {line.outcome for line in lines} == {"fired"}, (
            f"{name}: nothing was missed for longer than it catches up"
        )
        named.update(line.run_id for line in lines if line.run_id)
    oldest = max(lines[0].run_id or "" for lines in ledgers.values())
    assert set(named.values()) == {1}
    assert set(runs.values()) == {1}
    assert {one for one in runs if one > oldest} - named.keys() == set(), "runs that no ledger knows"
    assert {one for one in named if one > oldest} - runs.keys() == set(), "the ledger names runs that are not there"


@pytest.fixture
def firing(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Firing]:
    made = Firing(tmp_path, tasks=200 if request.node.get_closest_marker("soak") else 100)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.timeout(SECONDS * 4 + 240)
def test_each_instant_has_one_outcome_while_servers_are_killed(firing: Firing) -> None:
    firing.start()
    killed = firing.torment(random.Random(1), SECONDS)
    assert killed > 3
    # no server is left that could write between the two looks
    for server in firing.servers:
        server.kill_tree()
    check(firing.ledgers(), firing.run_ids())


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(60 * MINUTES + 900)
def test_each_instant_has_one_outcome_for_as_long_as_asked(firing: Firing) -> None:
    firing.start()
    chance, left = random.Random(), round(60 * MINUTES)
    while left > 0:
        firing.torment(chance, min(left, KEPT_S // 3))
        left -= KEPT_S // 3
        for server in firing.servers:
            server.kill_tree()
        check(firing.ledgers(), firing.run_ids())
        for server in firing.servers:
            server.start()
