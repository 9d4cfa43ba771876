"""The pipes between the worker and a process tree."""

from __future__ import annotations

import fcntl
import os
import sys
import termios
from collections.abc import Sequence

import trio

__all__ = ["Pipes", "Reader"]

READ_SIZE = 65_536


class Pipes:
    """The pipes of one tree: our ends, and those `handed` to the tree, to be closed here once it has them."""

    def __init__(self, *, with_stdin: bool = False, outputs: Sequence[int] | None = None) -> None:
        """`outputs`: our ends of a tree that has its own already, and not to be closed here; else pipes are made.

        Raises: OSError when the system has no more of them.
        """
        self.handed: list[int] = []
        self.outputs: Sequence[int] = outputs or ()
        self.stdin: int | None = None
        self._ours: list[int] = []
        try:
            if outputs is None:
                self.outputs = [self._open(0), self._open(0)]
            if with_stdin:
                self.stdin = self._open(1)
        except OSError:
            self.close_handed()
            self.close()
            raise
        self.readers = [Reader(name, fd) for name, fd in zip(("out", "err"), self.outputs, strict=True)]

    def close_handed(self) -> None:
        """The tree has its ends, or will never have them."""
        while self.handed:
            os.close(self.handed.pop())

    def close_stdin(self) -> None:
        """The tree has all its input."""
        if self.stdin is not None and self.stdin in self._ours:
            self._ours.remove(self.stdin)
            os.close(self.stdin)

    def close(self) -> None:
        """Close what is left of our ends."""
        while self._ours:
            os.close(self._ours.pop())

    def _open(self, our_end: int) -> int:
        ends = os.pipe()
        self._ours.append(ends[our_end])
        self.handed.append(ends[1 - our_end])
        os.set_blocking(ends[our_end], False)
        return ends[our_end]


class Reader:
    """Reads an output pipe to its end; once the tree is gone, only what is in it, as a stranger may hold it open."""

    def __init__(self, name: str, fd: int) -> None:
        self.name, self._fd = name, fd
        self._left = sys.maxsize
        self._waiting = trio.CancelScope()

    async def read(self) -> bytes:
        """Wait for data; empty at the end."""
        while self._left:
            try:
                data = os.read(self._fd, min(READ_SIZE, self._left))
            except BlockingIOError:
                with trio.CancelScope() as self._waiting:
                    await trio.lowlevel.wait_readable(self._fd)
            else:
                self._left -= len(data)
                return data
        return b""

    def finish(self) -> None:
        """The tree is gone: read what is there, and wait for nothing more."""
        self._left = int.from_bytes(fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4)), sys.byteorder)
        self._waiting.cancel()
