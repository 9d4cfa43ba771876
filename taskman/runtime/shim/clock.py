"""The clock that leases are measured by, here and in the worker, and an alarm that rings by it."""

from __future__ import annotations

import ctypes
import math
import os
import struct
import time

__all__ = ["Alarm", "now"]

# It counts while the machine sleeps, where the system has such a clock: a lease runs out in that time, too.
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
TFD_TIMER_ABSTIME = 1


def now() -> float:
    """Seconds on a clock that all processes of this system share, and nobody can set."""
    return time.clock_gettime(CLOCK)


class Alarm:
    """Makes `fd` readable at a moment of `now`: at once on waking, when the machine slept over it.

    `fd` is None where the system has no such timer; whoever waits must then bound the wait itself.
    """

    def __init__(self) -> None:
        self.fd: int | None = None
        self._moment = math.inf
        try:
            self._libc = ctypes.CDLL(None)
            fd = self._libc.timerfd_create(CLOCK, os.O_CLOEXEC | os.O_NONBLOCK)
        except (AttributeError, OSError):
            return
        self.fd = fd if fd >= 0 else None

    def set(self, moment: float) -> None:
        """Ring then, and not at the moment set before; infinity is never."""
        if self.fd is not None and moment != self._moment:
            at_ns = max(1, math.ceil(moment * 1e9)) if moment < math.inf else 0
            setting = struct.pack("4l", 0, 0, *divmod(at_ns, 1_000_000_000))
            self._libc.timerfd_settime(self.fd, TFD_TIMER_ABSTIME, setting, None)
        self._moment = moment
