"""What may happen to servers and their Redis. Each fault has healed, or is being healed, when its method returns."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from crash.evidence import PREFIX
from crash.load import Load
from crash.scene import RedisServer, Scene
from harness import Server, eventually

__all__ = ["Faults", "signal_to"]

SHORT_S, LEASE_S, HEARTBEAT_S = 5.0, 20.0, 5.0
_UNDER_WAY = ("scheduled", "blocked", "queued", "running", "cancelling")


def signal_to(server: Server, number: int) -> None:
    """Send a signal to the server's own process, and to no other of its tree."""
    assert server.process is not None
    os.kill(server.process.pid, number)


class Faults:
    """Faults on a scene of servers that share a Redis; `chance` chooses victims."""

    def __init__(self, scene: Scene, chance: random.Random) -> None:
        self._scene, self._chance = scene, chance

    @property
    def all(self) -> dict[str, Callable[[], None]]:
        """Every fault by its name."""
        return {
            name: getattr(self, name)
            for name in sorted(vars(Faults))
            if name[0] != "_" and name not in ("all", "full_redis")
        }

    def _server(self) -> Server:
        return self._chance.choice(self._scene.servers)

    def kill_server(self) -> None:
        """SIGKILL for the process of a server alone, which then starts again."""
        server = self._server()
        signal_to(server, signal.SIGKILL)
        server.reap()
        server.start()

    def kill_server_with_its_tree(self) -> None:
        """SIGKILL for a server with its shims and their children, and a new start."""
        server = self._server()
        server.kill_tree()
        server.start()

    def kill_a_child(self) -> None:
        """SIGKILL for the main process of a run."""
        if at_work := self._scene.at_work():
            (run_id, _), process = self._chance.choice([*at_work.items()])
            self._scene.killed.add(run_id)
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    def kill_a_shim(self) -> None:
        """SIGKILL for the parent of the main process of a run."""
        if at_work := self._scene.at_work():
            process = self._chance.choice([*at_work.values()])
            with suppress(ProcessLookupError):
                os.kill(process.parent, signal.SIGKILL)

    def kill_redis(self) -> None:
        """SIGKILL for Redis, and a new start on the same directory."""
        self._interrupt_redis(at_once=True)

    def restart_redis(self) -> None:
        """An orderly restart of Redis."""
        self._interrupt_redis(at_once=False)

    def _interrupt_redis(self, *, at_once: bool) -> None:
        load, redis = self._load(), self._redis()
        noticed = load.refusals.total() + 1
        redis.end(at_once=at_once)
        eventually(lambda: load.refusals.total() >= noticed, "somebody notices")
        redis.start()

    def stop_redis(self) -> None:
        """Redis stands still for a while."""
        redis = self._redis()
        assert redis.process is not None
        redis.process.send_signal(signal.SIGSTOP)
        time.sleep(SHORT_S)
        redis.process.send_signal(signal.SIGCONT)

    def stop_server(self) -> None:
        """A server stands still for a while, too short to put a lease in doubt: half of it, less a heartbeat."""
        server = self._server()
        signal_to(server, signal.SIGSTOP)
        time.sleep(LEASE_S / 2 - HEARTBEAT_S - 1)
        signal_to(server, signal.SIGCONT)

    def stop_server_for_too_long(self) -> None:
        """A server stands still until its runs are somebody else's. Its shims and their trees do not."""
        server = self._server()
        signal_to(server, signal.SIGSTOP)
        held = {*self._scene.held_by(server)}
        eventually(lambda: not held & {*self._scene.held_by(server)}, "others take over", 3 * LEASE_S)
        signal_to(server, signal.SIGCONT)

    def flush_scripts(self) -> None:
        """Redis forgets its scripts."""
        with self._scene.connection() as redis:
            redis.script_flush()

    def drop_connections(self) -> None:
        """Redis closes every connection, of either kind."""
        with self._scene.connection() as redis:
            redis.client_kill_filter(_type="pubsub")
            redis.client_kill_filter(_type="normal", skipme=True)

    def fill_redis(self) -> None:
        """Redis is full for a while: submissions are refused, and what is under way goes on."""
        with self.full_redis():
            time.sleep(SHORT_S)

    def refuse_writes(self) -> None:
        """Redis refuses every write for a while, as with a full disk."""
        with self._scene.connection() as redis:
            redis.config_set("min-replicas-to-write", 1)
            time.sleep(SHORT_S)
            redis.config_set("min-replicas-to-write", 0)

    @contextmanager
    def full_redis(self) -> Iterator[None]:
        """Full for as long as the block."""
        self._note_logs_that_may_be_cut()
        with self._scene.connection() as redis:
            redis.config_set("maxmemory", 1)
            self._note_logs_that_may_be_cut()
            yield
            redis.config_set("maxmemory", 0)

    def _note_logs_that_may_be_cut(self) -> None:
        with self._scene.connection() as redis:
            for state in _UNDER_WAY:
                self._scene.cut |= {one.decode() for one in redis.zrange(f"{PREFIX}state:{state}", 0, -1)}

    def _load(self) -> Load:
        assert self._scene.load is not None
        return self._scene.load

    def _redis(self) -> RedisServer:
        assert self._scene.redis is not None
        return self._scene.redis
