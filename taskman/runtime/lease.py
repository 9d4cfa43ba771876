"""How long an attempt is safely its worker's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .shim.clock import now

__all__ = ["KILL_MARGIN_S", "LEASE_S", "MARGIN_S", "Lease", "began_at", "now"]

# So long after the last heartbeat a run is suspect; its own grace follows before it is lost.
LEASE_S = 20.0
# An attempt that could not be renewed is stopped so long before its run could be given to somebody else; and killed.
MARGIN_S = 10.0
KILL_MARGIN_S = 2.0


class Lease:
    """The lease of one attempt, as its worker knows it: on the clock `now`, and from when it was asked for.

    Redis counts from a later moment, when it has the question. So no delay on the way makes this too long.
    """

    def __init__(self, began: float, lost_grace_s: float) -> None:
        """`began`: when the claim was asked for."""
        self._lost_grace_s = lost_grace_s
        self._began = -math.inf
        self._followers: set[Callable[[Lease], None]] = set()
        self.renew(began)

    @property
    def silence_s(self) -> float:
        """How long ago the last renewal that came through was asked for."""
        return now() - self._began

    @property
    def is_ending(self) -> bool:
        """Whether it is time to stop."""
        return now() >= self.stop_at

    def renew(self, began: float) -> None:
        """It was renewed, which was asked for at `began`; those who follow are told when that is news."""
        if began > self._began:  # the replies of two renewals may come in any order
            self._began = began
            lost_at = began + LEASE_S + self._lost_grace_s
            self.stop_at, self.kill_at = lost_at - MARGIN_S, lost_at - KILL_MARGIN_S
            for tell in self._followers:
                tell(self)

    @contextmanager
    def followed_by(self, tell: Callable[[Lease], None]) -> Iterator[None]:
        """Have `tell` called after each renewal, as long as the block lasts."""
        self._followers.add(tell)
        try:
            yield
        finally:
            self._followers.discard(tell)


def began_at(stop_at: float, lost_grace_s: float) -> float:
    """When the last renewal of a lease was asked for that has its attempt stopped at `stop_at`."""
    return stop_at - lost_grace_s - LEASE_S + MARGIN_S
