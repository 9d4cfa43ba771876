"""Ends what a killed shim has left behind, as far as it can be found."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from .shim.table import descendants, processes

__all__ = ["sweep"]

SWEEP_ROUNDS, SWEEP_PAUSE_S = 100, 0.02
MARKS = ("TASKMAN_RUN_ID", "TASKMAN_ATTEMPT", "TASKMAN_TREE")


def sweep(env: Mapping[str, str]) -> None:
    """Kill what carries the run's marks in its environment, or descends from such: the tree of a killed shim.

    Not found is what has cleared its environment and lost its parent as well.
    """
    marks = {os.fsencode(f"{name}={env[name]}") for name in MARKS if name in env}
    for _ in range(SWEEP_ROUNDS if {"TASKMAN_RUN_ID", "TASKMAN_TREE"} & env.keys() else 0):
        table = processes()
        marked = {process.pid for process in table if _has_marks(process.pid, marks)}
        if not marked:
            return
        for pid in marked | {process.pid for process in descendants(marked, table)}:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(SWEEP_PAUSE_S)


def _has_marks(pid: int, marks: set[bytes]) -> bool:
    with contextlib.suppress(OSError):
        return marks <= set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    return False
