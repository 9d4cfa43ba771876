"""Between the worker protocol and the store: the same things in the words of the other side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from ..errors import ProtocolViolation
from ..model.admission import Node
from ..model.instants import format_instant
from ..model.progress import Progress
from ..model.results import ERROR_LIMIT, why_not_kept
from ..store.logs import Chunk
from ..store.runs import Assignment, Outcome
from . import wire
from .portions import portions

__all__ = ["assigned", "no_json", "node_of", "number_lines", "outcome_of", "parts_of", "progress_of", "within_limit"]

_ASSIGN_BYTES = wire.FRAME_BYTES - 1024
_REASONS = {"failed": "error", "fatal": "error", "cancelled": "requested"}


def node_of(hello: wire.Hello) -> Node:
    """The worker as the gate sees it."""
    queues = None if hello.queues is None else frozenset(hello.queues)
    types = frozenset(hello.types)
    return Node(
        id=hello.id, types=types, labels=hello.labels, slots=hello.slots, running=len(hello.held), queues=queues
    )


def outcome_of(message: wire.Done | wire.Release) -> Outcome:
    """How an attempt ended, as the store takes it once it has been judged."""
    if isinstance(message, wire.Release):
        return Outcome(message.run, message.attempt, "released")
    error = message.error and message.error[:ERROR_LIMIT]
    return Outcome(
        message.run,
        message.attempt,
        message.outcome,
        message.reason or _REASONS.get(message.outcome),
        message.result,
        error,
        retry_after_s=message.retry_after,
    )


def within_limit(outcome: Outcome) -> Outcome:
    """The outcome, or a failure in its place when its result is larger than may be kept."""
    fault = why_not_kept(outcome.result)
    if fault is None:
        return outcome
    return replace(outcome, outcome="failed", reason="error", result=None, error=f"the result {fault}")


def no_json(outcomes: Sequence[Outcome]) -> ProtocolViolation:
    """What to say when one of the results is none."""
    faults = ((one, why_not_kept(one.result)) for one in outcomes)
    run, fault = next(((one.run_id, fault) for one, fault in faults if fault), ("?", "cannot be written as JSON"))
    return ProtocolViolation(f"the 'result' of run {run} {fault}")


def progress_of(message: wire.Progress) -> Progress:
    """How far an attempt is. Raises ProtocolViolation."""
    try:
        return Progress.checked(message.done, message.total, message.message)
    except (TypeError, ValueError) as error:
        raise ProtocolViolation(f"the 'progress' of run {message.run}: {error}") from None


def number_lines(chunks: Sequence[wire.Chunk], last_seq: int, line: int) -> tuple[list[Chunk], tuple[int, int]]:
    """The chunks that are not stored yet, with the numbers of their first lines; and the position behind them."""
    found = []
    for seq, at_ms, stream, data in chunks:
        if seq > last_seq:
            chunk = Chunk(seq, at_ms, stream, line, data)
            found.append(chunk)
            last_seq, line = seq, chunk.end_line
    return found, (last_seq, line)


def assigned(one: Assignment) -> wire.AssignedRun:
    """A claimed run as a worker gets it."""
    spec = one.spec
    return wire.AssignedRun(
        run=one.run_id,
        attempt=one.attempt,
        type=spec.type,
        params=spec.params,
        env=spec.env,
        timeout=spec.timeout_s,
        idle_timeout=spec.idle_timeout_s,
        grace=spec.grace_s,
        fire_time=format_instant(spec.fire_time_ms),
        task=spec.task,
        lost_grace=spec.lost_grace_s,
    )


def parts_of(runs: Sequence[tuple[Assignment, bytes]]) -> Iterator[list[tuple[Assignment, bytes]]]:
    """As many runs as fit into a frame each, and at least one."""
    return portions(runs, lambda run: len(run[1]), _ASSIGN_BYTES)
