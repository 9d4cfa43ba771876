"""The states of a run, the reasons for them, and every event with its arrow."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["EVENTS", "FINAL", "REASONS", "AttemptState", "State"]


class State(StrEnum):
    """Where a run stands. The last four are final."""

    SCHEDULED = "scheduled"
    BLOCKED = "blocked"
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.SKIPPED})


class AttemptState(StrEnum):
    """How an attempt stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    LOST = "lost"
    RELEASED = "released"


REASONS: dict[str, str] = {
    "due": "Its time has come.",
    "error": "The task raised an error.",
    "exit": "The process ended with a code that does not count as success.",
    "lost": "The worker stopped answering while it held the run.",
    "rejected": "The worker cannot run this: the task type is missing there, or refuses the parameters.",
    "released": "The worker was shut down and gave the run back; this costs no attempt.",
    "requested": "Somebody asked for it.",
    "signal": "A signal ended the process.",
    "timeout": "The attempt took longer than its timeout.",
}

# event -> (states it may start from, state it leads to); None: the run does not exist yet
EVENTS: dict[str, tuple[frozenset[State | None], State]] = {
    "submit": (frozenset({None}), State.QUEUED),
    "schedule": (frozenset({None}), State.SCHEDULED),
    "promote": (frozenset({State.SCHEDULED}), State.QUEUED),
    "claim": (frozenset({State.QUEUED}), State.RUNNING),
    "succeed": (frozenset({State.RUNNING, State.CANCELLING}), State.SUCCEEDED),
    "fail": (frozenset({State.RUNNING, State.CANCELLING}), State.FAILED),
    "release": (frozenset({State.RUNNING}), State.QUEUED),
    "lose": (frozenset({State.RUNNING}), State.QUEUED),
    "give_up": (frozenset({State.RUNNING}), State.FAILED),
    "request_cancel": (frozenset({State.RUNNING}), State.CANCELLING),
    "cancel": (frozenset({State.SCHEDULED, State.BLOCKED, State.QUEUED, State.CANCELLING}), State.CANCELLED),
}
