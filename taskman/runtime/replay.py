"""Delivering what a worker has spooled, every attempt's messages in order, all attempts side by side."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from ..errors import LinkLost
from . import wire
from .exchange import Exchange
from .spool import Spool, Spooled

__all__ = ["replay"]

_PASS_BYTES = 1024 * 1024
_AT_ONCE = 32
_RETRY_S = 0.5
_PAUSE_S = 0.05
_log = logging.getLogger("taskman.worker")


async def replay(spool: Spool, exchange: Exchange) -> None:
    """Deliver until the spool is empty. Raises: LinkLost; what was acknowledged by then is not sent again."""
    while entries := list(spool)[:_AT_ONCE]:
        limit = _PASS_BYTES // len(entries)
        parts = [(entry, *_read(entry, limit)) for entry in entries]
        refused = await _send_logs(spool, exchange, parts)
        refused = await _send_results(spool, exchange, parts) or refused
        if not any(logs or result for _, logs, result in parts):
            await trio.sleep(_PAUSE_S)  # an attempt is about to write more
        if refused is not None:
            _log.warning("the server cannot store what was kept for it: %s; trying again", refused)
            await trio.sleep(_RETRY_S)


Part = tuple[Spooled, list[tuple[wire.Log, bytes, int]], tuple[bytes, int] | None]
"""Of one attempt: its next output, and its result when nothing comes before that."""


def _read(entry: Spooled, limit: int) -> tuple[list[tuple[wire.Log, bytes, int]], tuple[bytes, int] | None]:
    logs: list[tuple[wire.Log, bytes, int]] = []
    for encoded, end in entry.read(limit):
        message = wire.read_message(encoded)
        if not isinstance(message, wire.Log):
            return logs, (encoded, end)
        logs.append((message, encoded, end))
    return logs, None


async def _send_logs(spool: Spool, exchange: Exchange, parts: Sequence[Part]) -> str | None:
    troubles: list[str] = []
    async with trio.open_nursery() as nursery:
        for entry, logs, _ in parts:
            if logs:
                nursery.start_soon(_send_log, spool, exchange, entry, logs, troubles)
    exchange.check()
    return troubles[0] if troubles else None


async def _send_log(
    spool: Spool,
    exchange: Exchange,
    entry: Spooled,
    logs: Sequence[tuple[wire.Log, bytes, int]],
    troubles: list[str],
) -> None:
    try:
        for message, encoded, end in logs:
            answer = await exchange.send_log(entry.key, encoded, message.chunks[-1][0])
            if answer is not None and answer.error is not None:
                troubles.append(answer.error)
                return
            entry.delivered = end  # without an answer: nobody wants it any more
    except LinkLost:
        return
    if entry.is_delivered:
        spool.discard(entry)  # an attempt that goes on writes directly again


async def _send_results(spool: Spool, exchange: Exchange, parts: Sequence[Part]) -> str | None:
    ready = [(entry, *found) for entry, logs, found in parts if found and (not logs or entry.delivered >= logs[-1][2])]
    if not ready:
        return None
    answers = await exchange.settle([(entry.key, encoded) for entry, encoded, _ in ready])
    for (entry, _, _), answer in zip(ready, answers, strict=True):
        if answer.error is not None:
            return answer.error
        if answer.state == "stale":
            _log.warning("run %s: attempt %d had been given up on", *entry.key)
        spool.discard(entry)
    return None
