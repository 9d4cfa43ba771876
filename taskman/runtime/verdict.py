"""What becomes of a run when an attempt has ended: where its policy is known, not where it was executed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ..model.retry import RetryPolicy
from ..store.runs import Assignment, Outcome, Runs

__all__ = ["Standing", "judge"]


class Standing(Struct, frozen=True):
    """What must be known of an attempt when it fails: its policy, and how often the run has failed before.

    `retry` None: it was claimed through another server, and the store is asked when it matters.
    """

    attempt: int
    retry: Mapping[str, Any] | None = None
    failures: int = 0

    @classmethod
    def of(cls, assignment: Assignment) -> Standing:
        """As it was claimed."""
        return cls(assignment.attempt, assignment.spec.retry, assignment.failures)


async def judge(outcomes: Sequence[Outcome], standings: Mapping[str, Standing], runs: Runs) -> list[Outcome]:
    """The outcomes as the store takes them: failures that are to be tried again say when. Raises StoreUnavailable."""
    unknown = [one.run_id for one in outcomes if one.outcome == "failed" and not _knows(standings, one)]
    read = await runs.policies(unknown) if unknown else {}
    looked_up = {run_id: Standing(0, *found) for run_id, found in read.items()}
    return [_judged(one, standings if _knows(standings, one) else looked_up) for one in outcomes]


def _knows(standings: Mapping[str, Standing], outcome: Outcome) -> bool:
    found = standings.get(outcome.run_id)
    return found is not None and found.attempt == outcome.attempt and found.retry is not None


def _judged(outcome: Outcome, standings: Mapping[str, Standing]) -> Outcome:
    if outcome.outcome == "fatal":
        return replace(outcome, outcome="failed")
    standing = standings.get(outcome.run_id)
    if outcome.outcome != "failed" or standing is None:
        return outcome
    wait_s = _wait_s(outcome, standing)
    return outcome if wait_s is None else replace(outcome, outcome="retry", wait_s=wait_s)


def _wait_s(outcome: Outcome, standing: Standing) -> float | None:
    policy = RetryPolicy.model_validate(standing.retry or {})
    if outcome.retry_after_s is not None and standing.failures + 1 < policy.max_attempts:
        return outcome.retry_after_s
    return policy.next_wait_s(standing.failures + 1, outcome.reason or "error", random.random)
