"""All processes of one run, from the first to the last."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time

from .clock import now
from .table import Process, descendants, processes, read_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from resource import struct_rusage

__all__ = ["Tree"]

LEFTOVER_GRACE_S = 2.0  # what the main process leaves behind gets SIGTERM and, at most so much later, SIGKILL
STOP_ROUNDS, FIRST_KILL_PAUSE_S, LAST_KILL_PAUSE_S = 50, 0.01, 0.5
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Tree:
    """All processes of one run: signals them, reaps them, and adds up what they used.

    Signals go to process groups, which the kernel does at once for all members, forking or not. The main process
    starts in a session of its own and sessions are only left for new ones, so no group of a descendant has a
    member that is not one. A group's number is taken from a member seen alive a moment ago.

    `overdue` says that the main process did not come to its own end: the lease ended it.
    """

    def __init__(self, main: int, grace_s: float, *, adopts: bool = True) -> None:
        self.main, self.grace_s, self._adopts = main, grace_s, adopts
        self._stop_at = self._kill_at = math.inf  # by the lease, on the clock that leases are measured by
        self.overdue = False
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

    def lease(self, stop_at: float, kill_at: float) -> None:
        """Have it stopped, and what is left killed, at those moments of `clock.now`, instead of those said before."""
        self._stop_at, self._kill_at = stop_at, kill_at

    @property
    def terms(self) -> tuple[float, float]:
        """Those two moments."""
        return self._stop_at, self._kill_at

    @property
    def lease_moment(self) -> float:
        """When the lease has something to say next, as things stand."""
        return min(self._stop_at, self._kill_at)

    def enforce(self) -> None:
        """Once the lease or the grace is over, kill everyone seen; again, ever more slowly, until nobody is left."""
        self._enforce_lease(now())
        if self.kill_at is not None and time.monotonic() >= self.kill_at:
            self._kill_round()
            self.kill_at = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, LAST_KILL_PAUSE_S)

    def _enforce_lease(self, at: float) -> None:
        if at < self.lease_moment:
            return
        self._stop_at = math.inf
        if at < self._kill_at and self.kill_at is not None:
            return  # it is being stopped already, with a grace of its own
        self.overdue = self.overdue or self.exit_code is None
        if at < self._kill_at:
            self.stop(self.grace_s)
        else:
            self._kill_at = math.inf
            self.kill()

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


def members() -> list[Process]:
    """List the tree: whatever descends from this shim."""
    return descendants([os.getpid()], processes())
