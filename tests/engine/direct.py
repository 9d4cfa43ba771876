"""Redis without an event loop: what the store calls, one blocking command after the other, and a look at everything."""

from __future__ import annotations

import socket
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import hiredis
from engine.expected import Snapshot

from taskman.store.keys import Keys
from taskman.store.scripts import Script

PREFIX = Keys().prefix
TTL_SLACK_MS = 120_000


class RedisRefused(Exception):
    """An error reply, and the command that it answers."""


class Wire:
    """A connection that sends and waits; with an encoding, replies are text."""

    def __init__(self, path: str, encoding: str | None = None) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._reader = hiredis.Reader(encoding=encoding)

    def close(self) -> None:
        self._socket.close()

    def send(self, *commands: Sequence[Any]) -> None:
        self._socket.sendall(b"".join(hiredis.pack_command(tuple(command)) for command in commands))

    def receive(self) -> Any:
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(1 << 20))
        return reply

    def many(self, *commands: Sequence[Any]) -> list[Any]:
        self.send(*commands)
        replies = [self.receive() for _ in commands]
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, hiredis.ReplyError):
                raise RedisRefused(f"{reply} {tuple(command)[:3]}")
        return replies


class Direct:
    """Stands where the store expects its connection. `planted` scripts replace those of the same name."""

    def __init__(self, path: str, planted: Mapping[str, Script] | None = None) -> None:
        self._calls, self._eyes, self._ears = Wire(path), Wire(path, "utf-8"), Wire(path, "utf-8")
        self._planted = planted or {}
        self._ears.many(("PSUBSCRIBE", f"{PREFIX}*"))

    def close(self) -> None:
        for wire in (self._calls, self._eyes, self._ears):
            wire.close()

    def forget_everything(self) -> None:
        self._calls.many(("FLUSHALL",))

    async def execute(self, *args: Any) -> Any:
        return self.call(*args)

    async def execute_many(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        return self._calls.many(*commands)

    async def script(self, script: Script, keys: Sequence[Any], args: Sequence[Any], **_: bool) -> Any:
        chosen = self._planted.get(script.name, script)
        try:
            return self.call("EVALSHA", chosen.sha, len(keys), *keys, *args)
        except RedisRefused as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        return self.call("EVAL", chosen.source, len(keys), *keys, *args)

    def call(self, *args: Any) -> Any:
        return self._calls.many(args)[0]

    def heard(self) -> list[tuple[str, str]]:
        """What has been published since the last call, as (channel, message)."""
        self._ears.send(("PING",))
        messages: list[tuple[str, str]] = []
        while (reply := self._ears.receive())[0] != "pong":
            messages.append((reply[2].removeprefix(PREFIX), reply[3]))
        return messages

    def snapshot(self) -> Snapshot:
        """Every key of the shard but the events, in the form of `expected`."""
        names = [key.removeprefix(PREFIX) for key in self._eyes.many(("KEYS", "*"))[0] if key != f"{PREFIX}events"]
        commands = [_reading(PREFIX + name) for name in names]
        replies = self._eyes.many(*commands)
        return {names[i]: _READ[commands[i][0]](reply) for i, reply in enumerate(replies)}

    def lifetimes(self, names: Sequence[str]) -> list[int]:
        """Milliseconds until each of these keys expires; -1 never."""
        return self._eyes.many(*[("PTTL", PREFIX + name) for name in names]) if names else []

    def newest_event(self) -> tuple[str, str] | None:
        found = self._eyes.many(("XREVRANGE", f"{PREFIX}events", "+", "-", "COUNT", 1))[0]
        return (found[0][0], found[0][1][1]) if found else None


def run_now(call: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for."""
    try:
        call.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the call waits for something")


_SETS = ("permit:", "live:", "signatures", "paused", "unpacked", "placed")
_HASHES = ("run:", "task:", "unfinished", "downstream:")
_READ: dict[str, Any] = {
    "HGETALL": lambda reply: dict(zip(reply[::2], reply[1::2], strict=True)),
    "ZRANGE": lambda reply: {reply[i]: int(reply[i + 1]) for i in range(0, len(reply), 2)},
    "SMEMBERS": set,
    "GET": str,
    "XRANGE": list,
}


def _reading(key: str) -> tuple[str, ...]:
    """The command that reads the whole key."""
    name = key.removeprefix(PREFIX)
    if name.endswith(":log"):
        return "XRANGE", key, "-", "+"
    if name.startswith(_SETS) or (name.startswith("waiting:") and " " not in name):
        return "SMEMBERS", key
    if name.startswith(("unique:", "idem:", "retired")):
        return "GET", key
    if name.startswith(_HASHES) and not name.endswith((":runs", ":ledger", ":children")):
        return "HGETALL", key
    return "ZRANGE", key, "0", "-1", "WITHSCORES"
