"""What a worker needs of whoever gives it work: the store itself, or a server at the other end of a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..store.logs import Chunk
from ..store.runs import Assignment, Outcome

__all__ = ["Cancel", "Claim", "Delivery", "Link"]


@dataclass(frozen=True, slots=True)
class Claim:
    """Runs that were claimed in one call. Their leases count from `began`, on the clock of `lease.now`."""

    began: float
    assignments: Sequence[Assignment]


@dataclass(frozen=True, slots=True)
class Cancel:
    """Somebody wants a run ended; with `force` at once, without a grace."""

    run_id: str
    force: bool = False


class Delivery(Protocol):
    """What a single attempt needs: somebody who takes its log and its progress.

    Every call: StoreUnavailable when nobody can be reached.
    """

    worker: str

    async def append_log(self, run_id: str, attempt: int, chunks: Sequence[Chunk]) -> bool:
        """Store chunks; False when the attempt is no longer this worker's. Safe to repeat."""
        ...

    async def progress(self, run_id: str, attempt: int, done: float, total: float | None, message: str | None) -> None:
        """Tell how far an attempt has come; in order, and before its `finish`. Safe to repeat, and to lose."""
        ...


class Link(Delivery, Protocol):
    """The worker's side. Every call but `claim` and `cancels`: StoreUnavailable when nobody can be reached."""

    async def take_over(self, held: Sequence[tuple[str, int]]) -> list[str]:
        """Renew those (run id, attempt) pairs that this worker's predecessor has left: keep, cancel or drop for each.

        Before anything else. Whatever else the predecessor held is lost for certain, and given back.
        """
        ...

    async def log_position(self, run_id: str, attempt: int) -> tuple[int, int]:
        """How far the log of an attempt has come: the seq of its last chunk, and the number of the line behind it.

        Of one that `take_over` has kept.
        """
        ...

    async def claim(self, room: Callable[[], int]) -> Claim:
        """At least one run and at most `room()`, as it is then; waits until there is one, also through an outage.

        Cancellation: what an unheard claim has claimed is found by its lease.
        """
        ...

    async def finish(self, outcomes: Sequence[Outcome]) -> list[str]:
        """Report how attempts ended; the state of each run afterwards, or `stale`. Safe to repeat.

        Failures are judged behind the link: see Outcome. `spooled`: it is written down here and will be reported
        when a server is there again, which is the link's own business from now on.
        """
        ...

    async def report(self, running: int, slots: int) -> None:
        """Say how the worker stands; with each heartbeat."""
        ...

    async def extend(self, held: Sequence[tuple[str, int]]) -> list[str]:
        """Renew the leases of (run id, attempt) pairs: keep, cancel or drop for each."""
        ...

    def cancels(self) -> AsyncIterator[Cancel | None]:
        """The runs of this worker that somebody cancels; None: some may have been missed, ask `extend`."""
        ...
