"""What a worker says and hears, in messages of the protocol; the session's side is in translation.py."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic_core import to_json

from ..errors import Conflict, LinkLost, RequestRefused
from ..model.description import TypeDescription
from ..model.instants import parse_instant
from ..model.run import RunSpec
from ..store.logs import Chunk
from ..store.runs import Assignment, Outcome
from . import wire
from .portions import portions

__all__ = ["assignment_of", "described", "encoded_outcome", "in_portions", "log_messages", "refusal_of"]

_LOG_BYTES = 192 * 1024
_SETTLE_BYTES = 1024 * 1024
_DESCRIBE_BYTES = 128 * 1024


def refusal_of(error: wire.Error) -> Exception:
    """What an `error` in place of the `welcome` means for the worker."""
    if error.code == "taken":
        return Conflict(error.detail)
    if error.code == "malformed":
        return RequestRefused(400, error.code, error.detail)
    return LinkLost(f"the server said: {error.detail}")


def described(types: Iterable[TypeDescription]) -> dict[str, wire.Description]:
    """What `hello` says of task types; without those whose schema finds no room in its frame."""
    found, room = {}, _DESCRIBE_BYTES
    for one in types:
        description = wire.Description(one.description[:2000], dict(one.schema))
        size = len(to_json(one.schema))
        if size <= room:
            found[one.name] = description
            room -= size
    return found


def assignment_of(one: wire.AssignedRun) -> Assignment:
    """A run that was assigned, as the worker executes it."""
    spec = RunSpec(
        type=one.type,
        params=one.params,
        task=one.task,
        timeout_s=one.timeout,
        idle_timeout_s=one.idle_timeout,
        grace_s=one.grace,
        lost_grace_s=one.lost_grace,
        env=one.env,
        fire_time_ms=None if one.fire_time is None else parse_instant(one.fire_time),
    )
    return Assignment(one.run, one.attempt, spec)


def encoded_outcome(outcome: Outcome) -> bytes:
    """The `done` or `release` for an outcome; what MessagePack has no form for goes as JSON would have it."""
    if outcome.outcome == "released":
        return wire.encode(wire.Release(outcome.run_id, outcome.attempt))
    try:
        return wire.encode(_done(outcome, outcome.result))
    except (TypeError, ValueError, OverflowError):
        pass
    try:
        return wire.encode(_done(outcome, json.loads(json.dumps(outcome.result))))
    except (TypeError, ValueError, OverflowError) as error:
        message = f"the result cannot be sent to the server: {error}"
        return wire.encode(wire.Done(outcome.run_id, outcome.attempt, "fatal", "error", None, message))


def _done(outcome: Outcome, result: Any) -> wire.Done:
    return wire.Done(
        outcome.run_id,
        outcome.attempt,
        outcome.outcome,  # type: ignore[arg-type]  # the receiver knows them all, and checks
        outcome.reason,
        result,
        outcome.error,
        outcome.retry_after_s,
    )


def in_portions(encoded: Sequence[tuple[Outcome, bytes]]) -> Iterator[list[tuple[Outcome, bytes]]]:
    """Outcomes to be settled together: no more of them than may wait in memory."""
    return portions(encoded, lambda one: len(one[1]), _SETTLE_BYTES)


def log_messages(run_id: str, attempt: int, chunks: Sequence[Chunk]) -> Iterator[tuple[bytes, int]]:
    """`log` messages that fit into a frame each, with the number of their last chunk."""
    part: list[wire.Chunk] = []
    size = 0
    for chunk in chunks:
        if part and size + len(chunk.data) > _LOG_BYTES:
            yield wire.encode(wire.Log(run_id, attempt, part)), part[-1][0]
            part, size = [], 0
        part.append((chunk.seq, chunk.at_ms, chunk.stream, chunk.data))  # type: ignore[arg-type]  # a stream it is
        size += len(chunk.data) + 32
    if part:
        yield wire.encode(wire.Log(run_id, attempt, part)), part[-1][0]
