"""What the server checks of its Redis before it trusts runs to it."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import StoreError, StoreUnsuitable
from .connection import Connection
from .keys import Keys

__all__ = ["Fitness", "check"]

LAYOUT = "1"
_OLDEST = (6, 2)


@dataclass(frozen=True, slots=True)
class Fitness:
    """What this Redis promises: its version, and `volatile`, `everysec` or `always` for what it keeps."""

    version: str
    durability: str


async def check(connection: Connection, keys: Keys) -> Fitness:
    """Refuse a Redis that would lose runs by design; tell how durable the others are.

    Raises: StoreUnsuitable with the remedy; StoreUnavailable.
    """
    info = _fields(await connection.execute("INFO"))
    version = info.get("redis_version", "0")
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        raise StoreUnsuitable(f"Redis {version} is too old: Taskman needs 6.2 or newer, or Valkey")
    if info.get("role", "master") != "master":
        raise StoreUnsuitable("this Redis is a replica: point TASKMAN_REDIS_URL at the primary")
    if info.get("redis_mode") == "cluster":
        raise StoreUnsuitable("this Redis is a cluster, which is not served yet: point TASKMAN_REDIS_URL at one server")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise StoreUnsuitable(
            f"this Redis evicts keys when it is full (maxmemory-policy {policy}), which loses runs: "
            "set `maxmemory-policy noeviction`"
        )
    await _check_layout(connection, keys)
    return Fitness(version, await _durability(connection, info))


def _fields(reply: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in reply.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


async def _durability(connection: Connection, info: dict[str, str]) -> str:
    if info.get("aof_enabled") != "1":
        return "volatile"
    try:
        reply = await connection.execute("CONFIG", "GET", "appendfsync")
    except StoreError:
        return "everysec"  # a managed Redis that hides CONFIG; everysec is what they run
    fsync = reply[1].decode() if reply else "everysec"
    return {"always": "always", "everysec": "everysec"}.get(fsync, "volatile")


async def _check_layout(connection: Connection, keys: Keys) -> None:
    layout, shards = await connection.execute("HMGET", keys.meta, "layout", "shards")
    if layout is None or shards is None:  # only then: a server must be able to start while Redis is full
        await connection.execute("HSETNX", keys.meta, "layout", LAYOUT)
        await connection.execute("HSETNX", keys.meta, "shards", "1")
        layout, shards = await connection.execute("HMGET", keys.meta, "layout", "shards")
    if (layout, shards) != (LAYOUT.encode(), b"1"):
        raise StoreUnsuitable(
            f"this Redis holds layout {layout.decode()} in {shards.decode()} shards, this Taskman knows layout "
            f"{LAYOUT} in 1: run the version that wrote it, or use another Redis"
        )
