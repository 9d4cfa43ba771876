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
    "calendar": "Its schedule may not fire then: outside its window, or on an excluded date.",
    "children": "Not every worker that it was placed on succeeded.",
    "deadline": "The run as a whole, with its retries, took longer than its deadline.",
    "due": "Its time has come.",
    "error": "The task raised an error.",
    "exit": "The process ended with a code that does not count as success.",
    "expired": "It waited for a worker longer than its start deadline.",
    "idle_timeout": "The attempt gave no sign of life for longer than its idle timeout.",
    "limit": "Something that it needs is used up by other runs: a limit, or the concurrency of its task.",
    "lost": "The worker stopped answering while it held the run.",
    "overlap": "Another run of the task was not final yet, and they may not overlap.",
    "recovered": "Redis was restarted and had forgotten that a worker was executing this.",
    "rejected": "The worker cannot run this: the task type is missing there, or refuses the parameters.",
    "released": "The worker was shut down and gave the run back; this costs no attempt.",
    "replaced": "A newer run of the task took its place.",
    "requested": "Somebody asked for it.",
    "signal": "A signal ended the process.",
    "timeout": "The attempt took longer than its timeout.",
    "unblocked": "What it needs has room again.",
}

_WAITING: frozenset[State | None] = frozenset({State.SCHEDULED, State.BLOCKED, State.QUEUED})
_HELD: frozenset[State | None] = frozenset({State.RUNNING, State.CANCELLING})

# event -> (states it may start from, state it leads to); None: the run does not exist yet
EVENTS: dict[str, tuple[frozenset[State | None], State]] = {
    "submit": (frozenset({None}), State.QUEUED),
    "schedule": (frozenset({None}), State.SCHEDULED),
    "skip": (frozenset({None}), State.SKIPPED),
    "promote": (frozenset({State.SCHEDULED}), State.QUEUED),
    "block": (frozenset({State.QUEUED}), State.BLOCKED),
    "unblock": (frozenset({State.BLOCKED}), State.QUEUED),
    "claim": (frozenset({State.QUEUED}), State.RUNNING),
    "place": (frozenset({State.QUEUED}), State.RUNNING),
    "adopt": (_WAITING, State.RUNNING),
    "succeed": (_HELD, State.SUCCEEDED),
    "fail": (_HELD, State.FAILED),
    "retry": (frozenset({State.RUNNING}), State.SCHEDULED),
    "release": (frozenset({State.RUNNING}), State.QUEUED),
    "lose": (frozenset({State.RUNNING}), State.QUEUED),
    "give_up": (frozenset({State.RUNNING}), State.FAILED),
    "expire": (_WAITING, State.FAILED),
    "abandon": (_WAITING, State.FAILED),
    "request_cancel": (frozenset({State.RUNNING}), State.CANCELLING),
    "cancel": (_WAITING | {State.CANCELLING}, State.CANCELLED),
}
