"""Who a local worker is: an id that outlives the process, held by a lock that does not.

Whoever holds the lock of an id knows that the process which held it before is dead, so what that process was
running is lost for certain and can go back to the queue at once.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigError

__all__ = ["worker_identity"]

_MOST = 100


@contextmanager
def worker_identity(directory: Path) -> Iterator[str]:
    """The id of this process's worker, ours until the block ends or the process dies, however it dies."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in range(_MOST):
        handle = os.open(directory / f"worker-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            continue
        try:
            yield _read_or_make(handle)
        finally:
            os.close(handle)
        return
    raise ConfigError(f"{_MOST} workers use {directory} already: give this one a TASKMAN_DATA_DIR of its own")


def _read_or_make(handle: int) -> str:
    known = os.read(handle, 200).decode()
    if known:
        return known
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:60] or "local"
    made = f"{host}-{secrets.token_hex(3)}"
    os.write(handle, made.encode())
    return made
