"""What lets a tree outlive its worker for a while: until the worker's successor knocks, and goes on with it."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PATIENCE_S", "Hold"]

PATIENCE_S = 8.0  # a tree whose worker is gone lives on for so long, or until its lease has it stopped
CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class Hold:
    """One tree's: the socket on which to wait for a worker, and the outputs of the tree, to be handed to it.

    `is_good` until somebody has ended the tree: from then on it ends with its worker. Even so the socket stays open
    until the tree is gone, and that tells whoever knocks when that is. While there is no worker, `until` says how long
    one is waited for, `terms` what the lease last allowed, and `ending` how the tree ended if it did.
    """

    def __init__(self, label: bytes, path: bytes, fds: Sequence[int]) -> None:
        self.label, self._path = label, path
        self.listener, self.outputs = socket.socket(fileno=fds[0]), fds[1:]
        self.is_good = True
        self.terms, self.until = (math.inf, math.inf), math.inf
        self.ending: tuple[bytes, ...] | None = None

    def admit(self) -> tuple[socket.socket, int] | None:
        """Let in who knocks: the connection, and whose process that is. None for another user than ours."""
        try:
            connection, _ = self.listener.accept()
        except OSError:  # it has gone away again
            return None
        told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        pid, uid, _ = CREDENTIALS.unpack(told)
        if uid != os.geteuid():
            connection.close()
            return None
        connection.setblocking(True)
        return connection, pid

    def close(self) -> None:
        """The tree is gone, and whoever should know how it ended does."""
        self.listener.close()
        for fd in self.outputs:
            os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(self._path)
