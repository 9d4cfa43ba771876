"""A shim as the worker sees it: a process at the other end of a socket."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from ..errors import LeaseEnded, ShimLost
from .environment import inherited
from .shim.frames import Frames, pack

__all__ = ["ShimProcess"]

SHIM = Path(__file__).parent / "shim" / "__main__.py"
SHIM_ANSWER_S = 30.0


class ShimProcess:
    """A shim process, and the worker's end of its lifeline."""

    def __init__(self, pid: int, lifeline: socket.socket) -> None:
        self.pid, self._lifeline = pid, lifeline
        self.busy = False  # it may have a tree
        self.idle_since = -1.0  # never
        self._frames = Frames()
        self._sending = trio.Lock()
        self._received: list[list[bytes]] = []

    @classmethod
    async def start(cls) -> tuple[ShimProcess, trio.Process]:
        """Start a shim as a child of ours. Raises: OSError when the system has no room for another process."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        argv = [sys.executable, "-I", "-S", str(SHIM), str(theirs.fileno())]
        null = subprocess.DEVNULL
        with theirs, contextlib.ExitStack() as on_error:
            on_error.enter_context(ours)
            process = await trio.lowlevel.open_process(
                argv, pass_fds=[theirs.fileno()], stdin=null, stdout=null, env=inherited(), start_new_session=True
            )
            on_error.pop_all()
        return cls(process.pid, ours), process

    @classmethod
    async def meet(cls, lifeline: socket.socket) -> tuple[ShimProcess, list[bytes], list[int]]:
        """Take over from a worker that is gone, on a connection to the socket that the shim listens on.

        Shape: the shim, the words after `held`, and the fds of the outputs, which are ours then. Raises: ShimLost,
        once its tree is gone.
        """
        data, fds = b"", list[int]()
        with contextlib.suppress(ConnectionResetError):
            await trio.lowlevel.wait_readable(lifeline)
            data, fds, _, _ = socket.recv_fds(lifeline, 4096, 2, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
        shim = cls(0, lifeline)
        shim._received += shim._frames.feed(data)
        if not shim._received or shim._received[0][0] != b"held":
            raise ShimLost("A shim has ended its process tree.")
        _, label, pid, *terms = shim._received.pop(0)
        shim.pid, shim.busy = int(pid), True
        return shim, [label, *terms], fds

    async def spawn(self, request: bytes, fds: list[int]) -> bool:
        """Have a process started. False: this idle shim had died unnoticed, take another.

        Raises: OSError when it cannot be started; LeaseEnded when it is too late for that.
        """
        self.busy = True
        with trio.move_on_after(SHIM_ANSWER_S):
            try:
                await self.send(request, fds)
            except ShimLost:
                if self.idle_since < 0:
                    raise  # a fresh one: the next would fare no better
                return False
            words = await self.receive()
            self.busy = words[0] == b"started"
            if words[0] == b"error":
                raise OSError(int(words[1]), os.fsdecode(words[3]), os.fsdecode(words[2]))
            if words[0] == b"overdue":
                raise LeaseEnded
            return True
        raise ShimLost(f"The shim (process {self.pid}) does not answer.")

    async def receive(self) -> list[bytes]:
        """Wait for the shim's next message. Raises: ShimLost."""
        while not self._received:
            data = b""
            with contextlib.suppress(ConnectionResetError, trio.ClosedResourceError):
                await trio.lowlevel.wait_readable(self._lifeline)
                data = self._lifeline.recv(4096)
            if not data:
                raise ShimLost(f"The shim (process {self.pid}) died before its process tree did.")
            self._received += self._frames.feed(data)
        return self._received.pop(0)

    async def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send a frame, and fds with it. Raises: ShimLost."""
        async with self._sending:
            while data:
                try:
                    sent = socket.send_fds(self._lifeline, [data], fds)
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._lifeline)
                except (OSError, trio.ClosedResourceError) as error:
                    raise ShimLost(f"The shim (process {self.pid}) is gone.") from error
                else:
                    data, fds = data[sent:], ()

    def mention(self, data: bytes) -> None:
        """Send a short frame, or leave it where that would take waiting: for news that comes again anyway.

        A stream takes so few bytes whole or not at all: it asks for more room than that before it takes any.
        """
        if not self._sending.locked():
            with contextlib.suppress(OSError):  # full, or gone: whoever waits for the tree is told
                self._lifeline.send(data)

    def hand(self, data: bytes, fds: Sequence[int]) -> bool:
        """Send a short frame with fds at once. False: it cannot be sent now."""
        if self._sending.locked():
            return False
        try:
            socket.send_fds(self._lifeline, [data], fds)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """End the lifeline: the shim kills what is left of its tree, and exits."""
        if self._lifeline.fileno() >= 0:
            if self.busy:
                self.mention(pack([b"kill"]))  # a lifeline that ends without a word might mean that we have died
            trio.lowlevel.notify_closing(self._lifeline)
            self._lifeline.close()

    def abandon(self) -> None:
        """End the lifeline as our death would: a tree that is held lives on for a while."""
        self.busy = False
        self.close()
