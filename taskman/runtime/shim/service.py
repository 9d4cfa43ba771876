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
from .hold import PATIENCE_S, Hold
from .start import start
from .tree import Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
        self._hold: Hold | None = None
        self._worker, self._worker_gone = -1, False
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
        self._watch_death_of(os.getppid())

    def serve(self) -> None:
        """Loop until the worker is gone and its tree too, and nobody is waited for."""
        while self._tree or not self._worker_gone or self._waits:
            for fd, _ in self._poll.poll(self._patience_ms()):
                if fd in self._handlers:  # the one before may have lost the worker
                    self._handlers[fd]()
            if self._tree and self._tree.reap():
                self._report_end(self._tree)
            if self._hold and now() >= self._hold.until:
                self._give_up(self._hold)
            if self._tree:
                self._tree.enforce()
            if self._tree or self._hold:
                self._alarm.set(self._next_moment)

    @property
    def _waits(self) -> bool:
        """Whether a worker may still come for the tree, or for how it ended."""
        return self._hold is not None and self._hold.is_good

    @property
    def _next_moment(self) -> float:
        """When the lease or the wait for a worker has something to say next, on the clock of `now`."""
        of_tree = self._tree.lease_moment if self._tree else math.inf
        return min(of_tree, self._hold.until) if self._hold else of_tree

    def _watch(self, fd: int, handler: Callable[[], object]) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, select.POLLIN)

    def _unwatch(self, fd: int) -> None:
        del self._handlers[fd]
        self._poll.unregister(fd)

    def _watch_death_of(self, pid: int) -> None:
        # The lifeline alone would not tell: a child that the worker forked without exec holds it open too.
        if self._worker >= 0:
            os.close(self._worker)
            self._worker = -1
        with contextlib.suppress(AttributeError, OSError):
            self._worker = os.pidfd_open(pid)
            self._watch(self._worker, self._bury_worker)

    def _patience_ms(self) -> float | None:
        wait_s = self._next_moment - now()
        if self._tree and self._tree.kill_at is not None:
            wait_s = min(wait_s, self._tree.kill_at - time.monotonic())
        return max(0.0, wait_s * 1000) if wait_s < math.inf else None

    def _receive(self) -> None:
        if not self._read():
            self._lose_worker()

    def _read(self, flags: int = 0) -> bool:
        """Take in what the worker says. False: nothing more will come."""
        data, fds = b"", list[int]()
        with contextlib.suppress(ConnectionResetError):
            flags |= getattr(socket, "MSG_CMSG_CLOEXEC", 0)
            data, fds, _, _ = socket.recv_fds(self._lifeline, 1 << 18, 3, flags)
        for fd in fds:
            os.set_inheritable(fd, False)
        self._fds += fds
        for words in self._frames.feed(data):
            self._obey(words)
        return bool(data)

    def _obey(self, words: list[bytes]) -> None:
        if words[0] == b"spawn":
            self._spawn(words[1:])
        elif words[0] == b"hold":
            self._begin_hold(*words[1:])
        elif self._tree and words[0] == b"lease":
            self._tree.lease(float(words[1]), float(words[2]))
        elif self._tree and words[0] in (b"stop", b"kill"):
            if self._hold:
                self._hold.is_good = False
            if words[0] == b"kill":
                self._tree.kill()
            else:
                self._tree.stop(float(words[1]))

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

    def _report_end(self, tree: Tree) -> None:
        self._tree = None
        used = b"%f" % tree.cpu_s, b"%d" % tree.max_rss_bytes
        ending = b"exited", b"%d" % (tree.exit_code or 0), *used, b"%d" % tree.overdue
        if self._worker_gone and self._hold and self._hold.is_good:
            self._hold.ending = ending
        else:
            self._send(*ending)
            self._end_hold()

    def _send(self, *words: bytes, fds: Sequence[int] = ()) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a dead worker is noticed by the loop
            if fds:
                socket.send_fds(self._lifeline, [pack(words)], fds)
            else:
                self._lifeline.sendall(pack(words))

    def _begin_hold(self, label: bytes, path: bytes) -> None:
        fds, self._fds = self._fds, []
        if self._tree and not self._hold:
            self._hold = Hold(label, path, fds)
            return
        for fd in fds:  # the tree came to its end in the meantime
            os.close(fd)

    def _end_hold(self) -> None:
        if self._hold:
            self._hold.close()
            self._hold = None

    def _bury_worker(self) -> None:
        """Its process is gone: heed its last words, which may be that the tree shall end."""
        with contextlib.suppress(BlockingIOError):
            while self._read(socket.MSG_DONTWAIT):
                continue
        self._lose_worker()

    def _lose_worker(self) -> None:
        self._worker_gone = True
        for fd in set(self._handlers) - {self._wake, self._alarm.fd}:
            self._unwatch(fd)
        if self._tree and self._waits and self._hold and not self._tree.overdue:
            self._hold.terms, self._hold.until = self._tree.terms, min(now() + PATIENCE_S, self._tree.lease_moment)
            self._watch(self._hold.listener.fileno(), self._admit_worker)
            return
        if self._hold:
            self._hold.is_good = False
        if self._tree:
            self._tree.kill()

    def _give_up(self, hold: Hold) -> None:
        """Nobody has come in time."""
        hold.is_good, hold.until = False, math.inf
        self._unwatch(hold.listener.fileno())
        if self._tree:
            self._tree.kill()
        else:
            self._end_hold()

    def _admit_worker(self) -> None:
        """Serve the worker that has come for the tree."""
        hold = self._hold
        if hold is None or (admitted := hold.admit()) is None:
            return
        self._unwatch(hold.listener.fileno())
        self._lifeline.close()
        (self._lifeline, pid), hold.until = admitted, math.inf
        self._frames, self._worker_gone = Frames(), False
        self._watch(self._lifeline.fileno(), self._receive)
        self._watch_death_of(pid)
        moments = (b"%f" % moment for moment in hold.terms)
        self._send(b"held", hold.label, b"%d" % os.getpid(), *moments, fds=hold.outputs)
        if hold.ending:
            self._send(*hold.ending)
            self._end_hold()


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
