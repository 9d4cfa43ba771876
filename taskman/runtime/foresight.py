"""Runs that this process is about to submit, and who was called for them before Redis has said a word.

A claim that is sent right behind a submit, over the same connection, finds the run: the way of the event back to us,
and a round trip, are saved. The event comes all the same, and must call nobody a second time, unless whoever was called
did not get the run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import Enum, auto

__all__ = ["Foresight"]

_MOST = 10_000


class _Stage(Enum):
    ASKED = auto()
    HEARD = auto()
    TAKEN = auto()


class Foresight:
    """What became of each run that somebody was called for early.

    asked -> taken (claimed; its event is still to come) or heard (its event came first); gone when both are known.
    """

    def __init__(self) -> None:
        self._stages: dict[str, _Stage] = {}

    def expect(self, run_ids: Iterable[str]) -> None:
        """Somebody has been called for runs that are on their way to Redis."""
        if len(self._stages) > _MOST:
            self._stages.clear()  # their events then call once too often, which is never wrong
        self._stages.update(dict.fromkeys(run_ids, _Stage.ASKED))

    def heard(self, run_id: str) -> bool:
        """The run's event has come; whether somebody is to be called for it now."""
        stage = self._stages.pop(run_id, None)
        if stage is _Stage.ASKED:
            self._stages[run_id] = _Stage.HEARD
        return stage is None or stage is _Stage.HEARD

    def settle(self, expected: Iterable[str], claimed: Collection[str]) -> list[str]:
        """Whoever was called has claimed these; the runs that somebody else must be called for now."""
        missed = []
        for run_id in expected:
            stage = self._stages.pop(run_id, None)
            if run_id in claimed and stage is _Stage.ASKED:
                self._stages[run_id] = _Stage.TAKEN
            elif run_id not in claimed and stage is not _Stage.ASKED:
                missed.append(run_id)
        return missed

    def forget(self) -> None:
        """Events were missed: those that come call again."""
        self._stages.clear()
