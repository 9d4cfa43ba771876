"""The shim at work: what it does for the worker at the other end of the lifeline."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import select
import signal
import socket
import sys
import time

from .clock import Alarm, now
from .frames import Frames, pack
from .start import start
from .tree import Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Shim", "main"]

PR_SET_CHILD_SUBREAPER = 36
HEARD = (
    *(signal.SIGCHLD, signal.SIGPIPE, signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT),
    *(signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
)


def main() -> None:
    """Serve the worker at the other end of the lifeline until it closes, then exit."""
    lifeline = socket.socket(fileno=int(sys.argv[1]))
    lifeline.set_inheritable(False)
    if os.getsid(0) != os.getpid():
        os.setsid()
    os.chdir("/")
    Shim(lifeline, adopts=become_subreaper()).serve()
    os._exit(0)  # nothing to flush; the interpreter's own tear-down takes longer than the exit


def become_subreaper() -> bool:
    """Ask the kernel to hand over every descendant that loses its parent; False where it cannot."""
    with contextlib.suppress(OSError, AttributeError):
        return bool(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    return False


class Shim:
    """Does what the worker asks, and notices deaths: of processes, and of the worker."""

    def __init__(self, lifeline: socket.socket, *, adopts: bool) -> None:
        self._lifeline, self._adopts = lifeline, adopts
        self._frames = Frames()
        self._fds: list[int] = []
        self._tree: Tree | None = None
        self._worker_gone = False
        self._inherited = dict(os.environb)
        self._null = os.open("/dev/null", os.O_RDWR)
        self._wake = hear_signals()
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], object]] = {}
        self._watch(lifeline.fileno(), self._receive)
        self._watch(self._wake, lambda: os.read(self._wake, 4096))
        self._alarm = Alarm()
        if (alarm := self._alarm.fd) is not None:
            self._watch(alarm, lambda: os.read(alarm, 8))
        # The lifeline alone would not tell: a child that the worker forked without exec holds it open too.
        with contextlib.suppress(AttributeError, OSError):
            self._watch(os.pidfd_open(os.getppid()), self._lose_worker)

    def serve(self) -> None:
        """Loop until the worker is gone and its tree too."""
        while self._tree or not self._worker_gone:
            for fd, _ in self._poll.poll(self._patience_ms()):
                if fd in self._handlers:  # the one before may have lost the worker
                    self._handlers[fd]()
            if self._tree and self._tree.reap():
                tree, self._tree = self._tree, None
                used = b"%f" % tree.cpu_s, b"%d" % tree.max_rss_bytes
                self._send(b"exited", b"%d" % (tree.exit_code or 0), *used, b"%d" % tree.overdue)
            if self._tree:
                self._tree.enforce()
                self._alarm.set(self._tree.lease_moment)

    def _watch(self, fd: int, handler: Callable[[], object]) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, select.POLLIN)

    def _patience_ms(self) -> float | None:
        if self._tree is None:
            return None
        wait_s = self._tree.lease_moment - now()
        if self._tree.kill_at is not None:
            wait_s = min(wait_s, self._tree.kill_at - time.monotonic())
        return max(0.0, wait_s * 1000) if wait_s < math.inf else None

    def _receive(self) -> None:
        data, fds = b"", list[int]()
        with contextlib.suppress(ConnectionResetError):
            data, fds, _, _ = socket.recv_fds(self._lifeline, 1 << 18, 3, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
        for fd in fds:
            os.set_inheritable(fd, False)
        self._fds += fds
        for words in self._frames.feed(data):
            self._obey(words)
        if not data:
            self._lose_worker()

    def _obey(self, words: list[bytes]) -> None:
        if words[0] == b"spawn":
            self._spawn(words[1:])
        elif self._tree and words[0] == b"lease":
            self._tree.lease(float(words[1]), float(words[2]))
        elif self._tree and words[0] == b"stop":
            self._tree.stop(float(words[1]))
        elif self._tree and words[0] == b"kill":
            self._tree.kill()

    def _spawn(self, words: list[bytes]) -> None:
        (stop_at, kill_at, grace_s), (cwd, user) = map(float, words[:3]), words[3:5]
        last = 6 + int(words[5])
        env = self._inherited | {name: value for name, _, value in (word.partition(b"=") for word in words[last:])}
        (out, err, *stdin), self._fds = self._fds, []
        try:
            if now() >= stop_at:
                self._send(b"overdue")
                return
            main = start(words[6:last], cwd, env, user.decode(), [*(stdin or [self._null]), out, err])
        except OSError as error:
            about = os.fsencode(error.filename), os.fsencode(str(error.strerror))
            self._send(b"error", b"%d" % (error.errno or 0), *about)
        else:
            self._tree = Tree(main, grace_s, adopts=self._adopts)
            self._tree.lease(stop_at, kill_at)
            self._send(b"started", b"%d" % main)
        finally:
            for fd in (out, err, *stdin):
                os.close(fd)
            os.chdir("/")  # else an idle shim would keep a file system busy

    def _send(self, *words: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a dead worker is noticed by the loop
            self._lifeline.sendall(pack(words))

    def _lose_worker(self) -> None:
        self._worker_gone = True
        for fd in set(self._handlers) - {self._wake}:
            del self._handlers[fd]
            self._poll.unregister(fd)
        if self._tree:
            self._tree.kill()


def hear_signals() -> int:
    """Survive what is meant for others, and return an fd that becomes readable when a child has died.

    A handler that does nothing is not the same as ignoring: `exec` resets handlers, but hands ignored signals down.
    """
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, (lambda *_: None) if number in HEARD else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return wake
