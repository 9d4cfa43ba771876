"""The process table of this system: who lives, and who descends from whom."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Process", "descendants", "processes", "read_process"]


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
