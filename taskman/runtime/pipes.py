"""The pipes between the worker and a process tree."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import termios
from collections.abc import Sequence

import trio

__all__ = ["Pipes", "Reader"]

READ_SIZE = 65_536


class Pipes:
    """The pipes of one tree: our ends, and those `handed` to the tree, which we close (`theirs`) once it has them."""

    def __init__(
        self, ours: contextlib.ExitStack, *, with_stdin: bool = False, outputs: Sequence[int] | None = None
    ) -> None:
        """`outputs`: our ends of a tree that has its own already; else pipes are made."""
        self.handed: list[int] = []
        self.feeding = ours.enter_context(contextlib.ExitStack())
        with contextlib.ExitStack() as theirs:
            self.outputs = outputs or [self._open(ours, theirs, 0) for _ in range(2)]
            self.readers = [Reader(name, fd) for name, fd in zip(("out", "err"), self.outputs, strict=True)]
            self.stdin = self._open(self.feeding, theirs, 1) if with_stdin else None
            self.theirs = theirs.pop_all()

    def _open(self, ours: contextlib.ExitStack, theirs: contextlib.ExitStack, our_end: int) -> int:
        ends = os.pipe()
        ours.callback(os.close, ends[our_end])
        theirs.callback(os.close, ends[1 - our_end])
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
