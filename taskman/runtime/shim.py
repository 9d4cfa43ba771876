"""Runs one process tree at a time for a worker, and ends it whatever happens.

A program of its own: `python -I -S shim.py <fd>`, where fd is one end of a Unix stream socket (the lifeline) whose
other end only the worker holds. It imports nothing of Taskman and little else, to start fast.

As a child subreaper it inherits every descendant that loses its parent, so nothing it started can leave its
tree, and `wait` answers ECHILD exactly when the tree is gone. Only then is the run over, and the shim free for
the next. When the lifeline ends, the worker is dead: the tree is killed and the shim exits.

A message is a frame: four bytes of length, then words separated by NUL, which none of them can contain.

    worker -> shim   spawn <grace_s> <cwd> <user> <n> <argument>{n} <NAME=value>*     with two or three fds
                     stop <grace_s>     SIGTERM now, SIGKILL to what is left after the grace
                     kill               SIGKILL now
    shim -> worker   started <pid>
                     error <errno> <what> <message>
                     exited <exit code, or minus the signal> <cpu_s> <max_rss_bytes>

The fds of `spawn` are stdout, stderr and, where the process shall not read /dev/null, stdin.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pwd
import select
import signal
import socket
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from resource import struct_rusage
    from typing import Any

__all__ = ["Frames", "Process", "Shim", "Tree", "descendants", "pack", "processes"]

LEFTOVER_GRACE_S = 2.0  # what the main process leaves behind gets SIGTERM and, at most so much later, SIGKILL
STOP_ROUNDS, FIRST_KILL_PAUSE_S, LAST_KILL_PAUSE_S = 50, 0.01, 0.5
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
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


def pack(words: Iterable[bytes]) -> bytes:
    """Put words into a frame. Raises ValueError for a word that contains NUL."""
    listed = list(words)
    body = b"\0".join(listed)
    if body.count(b"\0") != len(listed) - 1:
        raise ValueError("an argument, a path or the environment contains a NUL character")
    return len(body).to_bytes(4, "big") + body


class Frames:
    """Cuts what arrives on a stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[list[bytes]]:
        """Take in what arrived; return the words of each frame that is now complete."""
        self._buffer += data
        complete = []
        while len(self._buffer) >= 4 and len(self._buffer) >= (end := 4 + int.from_bytes(self._buffer[:4], "big")):
            complete.append(bytes(self._buffer[4:end]).split(b"\0"))
            del self._buffer[:end]
        return complete


class Process:
    """One line of the process table. `started` (ticks since boot) tells two users of one pid apart."""

    __slots__ = ("group", "parent", "pid", "started")

    def __init__(self, pid: int, stat: bytes) -> None:
        fields = stat.rsplit(b")", 1)[1].split()
        self.pid = pid
        self.parent, self.group, self.started = int(fields[1]), int(fields[2]), int(fields[19])


def read_process(pid: int) -> Process | None:
    """Look one process up; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return Process(pid, file.read())
    except (OSError, IndexError):
        return None


def processes() -> list[Process]:
    """List the processes of this system, newest first; none where there is no /proc.

    The newest come first because a process that forks and exits in a loop is found only while its pid is fresh.
    """
    try:
        pids = sorted((int(name) for name in os.listdir("/proc") if name.isdigit()), reverse=True)
    except OSError:
        return []
    return [process for pid in pids if (process := read_process(pid))]


def descendants(roots: Iterable[int], table: list[Process]) -> list[Process]:
    """Pick from `table` all that descend from `roots`, the roots not included."""
    children: dict[int, list[Process]] = {}
    for process in table:
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    unseen = list(roots)
    while unseen:
        below = children.pop(unseen.pop(), [])
        found += below
        unseen += [process.pid for process in below]
    return found


def members() -> list[Process]:
    """List the tree: whatever descends from this shim."""
    return descendants([os.getpid()], processes())


def become_subreaper() -> bool:
    """Ask the kernel to hand over every descendant that loses its parent; False where it cannot."""
    with contextlib.suppress(OSError, AttributeError):
        return bool(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    return False


class Tree:
    """All processes of one run: signals them, reaps them, and adds up what they used.

    Signals go to process groups, which the kernel does at once for all members, forking or not. The main process
    starts in a session of its own and sessions are only left for new ones, so no group of a descendant has a
    member that is not one. A group's number is taken from a member seen alive a moment ago.
    """

    def __init__(self, main: int, grace_s: float, *, adopts: bool = True) -> None:
        self.main, self.grace_s, self._adopts = main, grace_s, adopts
        self.cpu_s, self.max_rss_bytes = 0.0, 0
        self.exit_code: int | None = None
        self.kill_at: float | None = None
        self._pause_s = FIRST_KILL_PAUSE_S

    def reap(self) -> bool:
        """Collect everyone who has died. True when nobody is left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if not pid:
                break
            self._count(pid, status, usage)
        if self.exit_code is not None and self.kill_at is None:
            self.stop(min(LEFTOVER_GRACE_S, self.grace_s))
        return False

    def _count(self, pid: int, status: int, usage: struct_rusage) -> None:
        # A child's figures contain those of the children it waited for itself, so that this is the whole tree.
        self.cpu_s += usage.ru_utime + usage.ru_stime
        self.max_rss_bytes = max(self.max_rss_bytes, usage.ru_maxrss * RSS_UNIT)
        if pid == self.main:
            self.exit_code = os.waitstatus_to_exitcode(status)
            if not self._adopts:
                send_to_group(self.main, signal.SIGKILL)

    def stop(self, grace_s: float) -> None:
        """Send SIGTERM once, and have what is left killed after the grace; a second call can only shorten it."""
        kill_at = time.monotonic() + grace_s
        if self.kill_at is not None:
            self.kill_at = min(self.kill_at, kill_at)
            return
        self.kill_at = kill_at
        self._send(members(), signal.SIGTERM, signal.SIGCONT)  # a stopped process could not act on it

    def kill(self) -> None:
        """Have everything killed now."""
        self.kill_at = time.monotonic()

    def enforce(self) -> None:
        """Once the grace is over, kill everyone seen; again, ever more slowly, until a reap finds nobody left."""
        if self.kill_at is not None and time.monotonic() >= self.kill_at:
            self._kill_round()
            self.kill_at = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, LAST_KILL_PAUSE_S)

    def _kill_round(self) -> None:
        # All are stopped before any is killed: else two processes that restart each other win the race for ever.
        stopped: dict[int, Process] = {}
        for _ in range(STOP_ROUNDS):
            fresh = {process.pid: process for process in members() if process.pid not in stopped}
            self._send(fresh.values(), signal.SIGSTOP)
            stopped |= fresh
            if not fresh:
                break
        self._send(stopped.values(), signal.SIGKILL)

    def _send(self, to: Iterable[Process], *numbers: int) -> None:
        for group in self._groups(to):
            for number in numbers:
                send_to_group(group, number)

    def _groups(self, of: Iterable[Process]) -> set[int]:
        groups = {self.main} if self.exit_code is None else set()  # not reaped, so the number is still its own
        for member in of:
            now = None if member.group in groups else read_process(member.pid)
            if now and now.started == member.started and now.group not in (0, os.getpgrp()):
                groups.add(now.group)
        return groups


def send_to_group(group: int, number: int) -> None:
    """Signal a process group; one that is gone, or runs as someone we may not signal, is left alone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def start(argv: list[bytes], cwd: bytes, env: dict[bytes, bytes], user: str, fds: list[int]) -> int:
    """Start the main process in a session of its own, with stdin, stdout and stderr from `fds`; return its pid.

    Everything else that is open here is close-on-exec, no signal is ignored or blocked.
    Raises: OSError whose filename and message say what could not be used.
    """
    try:
        os.chdir(cwd)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} (the working directory)", cwd) from None
    try:
        if user:
            return start_as(user, argv, env, fds)
        actions = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(fds)]
        return os.posix_spawn(find_program(argv[0], env), argv, env, file_actions=actions, setsid=True)
    except OSError as error:
        raise explained(error, argv[0]) from None


def start_as(user: str, argv: list[bytes], env: dict[bytes, bytes], fds: list[int]) -> int:
    """Start the main process as `user`, with all groups of that user. Only root can."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise OSError(errno.EINVAL, "There is no such user", user) from None
    if os.geteuid() != 0:
        raise PermissionError(errno.EPERM, "Only a worker that runs as root can start a process as the user", user)
    uid, gid, groups = account.pw_uid, account.pw_gid, os.getgrouplist(user, account.pw_gid)
    session: Any = {"start_new_session": True, "user": uid, "group": gid, "extra_groups": groups}
    process = subprocess.Popen[bytes](argv, -1, None, fds[0], fds[1], fds[2], env=env, **session)
    process.returncode = 0  # it is reaped with the rest of the tree, not by this object
    return process.pid


def find_program(name: bytes, env: dict[bytes, bytes]) -> bytes:
    """Find a program by the PATH of the environment it will have."""
    if b"/" in name:
        return name
    for folder in env.get(b"PATH", os.defpath.encode()).split(b":"):
        path = os.path.join(folder or b".", name)
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    raise FileNotFoundError(errno.ENOENT, "No such program in PATH", name)


def explained(error: OSError, program: bytes) -> OSError:
    """Give an error of the system the program it is about, and what the bare number does not tell."""
    hint = ""
    if error.errno == errno.ENOEXEC:
        hint = " (a script needs a first line such as #!/bin/sh)"
    elif b"/" in program and os.path.exists(program):
        hint = {errno.EACCES: " (not an executable file)", errno.ENOENT: " (its interpreter)"}.get(error.errno or 0, "")
    return OSError(error.errno, f"{error.strerror}{hint}", error.filename or program)


class Shim:
    """Does what the worker asks, and notices deaths: of processes, and of the worker."""

    def __init__(self, lifeline: socket.socket, *, adopts: bool) -> None:
        self._lifeline, self._adopts = lifeline, adopts
        self._frames = Frames()
        self._fds: list[int] = []
        self._tree: Tree | None = None
        self._worker_gone = False
        self._null = os.open("/dev/null", os.O_RDWR)
        self._wake = hear_signals()
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], object]] = {}
        self._watch(lifeline.fileno(), self._receive)
        self._watch(self._wake, lambda: os.read(self._wake, 4096))
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
                self._send(b"exited", b"%d" % (tree.exit_code or 0), b"%f" % tree.cpu_s, b"%d" % tree.max_rss_bytes)
            if self._tree:
                self._tree.enforce()

    def _watch(self, fd: int, handler: Callable[[], object]) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, select.POLLIN)

    def _patience_ms(self) -> float | None:
        if self._tree is None or self._tree.kill_at is None:
            return None
        return max(0.0, (self._tree.kill_at - time.monotonic()) * 1000)

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
        elif self._tree and words[0] == b"stop":
            self._tree.stop(float(words[1]))
        elif self._tree and words[0] == b"kill":
            self._tree.kill()

    def _spawn(self, words: list[bytes]) -> None:
        grace_s, cwd, user, last = float(words[0]), words[1], words[2].decode(), 4 + int(words[3])
        env = {name: value for name, _, value in (word.partition(b"=") for word in words[last:])}
        (out, err, *stdin), self._fds = self._fds, []
        try:
            main = start(words[4:last], cwd, env, user, [*(stdin or [self._null]), out, err])
        except OSError as error:
            about = os.fsencode(error.filename), os.fsencode(str(error.strerror))
            self._send(b"error", b"%d" % (error.errno or 0), *about)
        else:
            self._tree = Tree(main, grace_s, adopts=self._adopts)
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


if __name__ == "__main__":
    main()
