"""Redis' clock as this process knows it between two readings."""

from __future__ import annotations

import math

import trio

__all__ = ["StoreClock"]

# The two clocks may run apart so fast at most: Linux slews by no more than that.
_DRIFT = 0.0005


class StoreClock:
    """Redis' clock, carried on by Trio's: at a reading never ahead, and behind by no more than the quickest one took.

    Each reading bounds the difference of the two: the time that Redis told had come when the question left, at the
    latest, and was over when the answer arrived. An answer that lay waiting says little, and those before it say more.
    Until the next reading it goes as Trio's goes, so it is ahead of a clock that is being slowed down by up to half a
    millisecond for each second since. Readings that cannot both be true mean that one of the clocks was set: then the
    last one alone counts.
    """

    def __init__(self) -> None:
        self._least, self._most = -math.inf, math.inf
        self._read_at = -math.inf

    def read(self, now_ms: int, asked_at: float) -> None:
        """Redis has just answered that it is `now_ms` (epoch), having been asked at `asked_at` on Trio's clock."""
        at = trio.current_time()
        least, most = now_ms / 1000 - at, (now_ms + 1) / 1000 - asked_at
        drift = (at - self._read_at) * _DRIFT
        before = self._least - drift, self._most + drift
        self._least, self._most, self._read_at = max(least, before[0]), min(most, before[1]), at
        if self._least > self._most:
            self._least, self._most = least, most

    def ms_in(self, seconds: float) -> int:
        """What it will show so long from now."""
        return math.floor((trio.current_time() + self._least + seconds) * 1000)

    def late_s(self, at_ms: int) -> float:
        """How long ago it showed that; negative for a time to come."""
        return trio.current_time() + self._least - at_ms / 1000
