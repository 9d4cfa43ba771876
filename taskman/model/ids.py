"""Run ids: a shard, an instant and 64 bits, in Crockford's base 32, so that ids of a shard sort by time.

`r0-` + 10 characters of epoch milliseconds + 13 characters of randomness, 26 characters in all. A scheduled
run's id is derived from its schedule and fire time, so two servers that fire the same instant name the same run.
"""

from __future__ import annotations

import hashlib
import os
import re
import time

__all__ = ["RUN_ID", "child_run_id", "id_at", "instant_of", "is_run_id", "new_run_id", "scheduled_run_id", "shard_of"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIR = 1023
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]
RUN_ID = re.compile(r"r[0-9]{1,4}-[0-9a-hjkmnp-tv-z]{23}")
_last = (0, 0)


def is_run_id(text: str) -> bool:
    """Whether `text` has the form of a run id; says nothing about whether the run exists."""
    return RUN_ID.fullmatch(text) is not None


def shard_of(run_id: str) -> int:
    """The shard that holds the run."""
    return int(run_id[1 : run_id.index("-")])


def new_run_id(shard: int = 0, now_ms: int | None = None) -> str:
    """A fresh id; ids made by one process are strictly increasing, also within a millisecond."""
    global _last
    at = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    last_at, last_bits = _last
    if at <= last_at:
        at, bits = last_at, last_bits + 1 + os.urandom(1)[0]
    else:
        bits = int.from_bytes(os.urandom(8)) >> 1  # one bit of room to count up
    _last = (at, bits)
    return _join(shard, at, bits)


def scheduled_run_id(shard: int, task: str, schedule: str, fire_time_ms: int) -> str:
    """The one id of the run of this schedule at this fire time."""
    digest = hashlib.blake2b(f"{task}\0{schedule}\0{fire_time_ms}".encode(), digest_size=8).digest()
    return _join(shard, fire_time_ms, int.from_bytes(digest))


def child_run_id(parent: str, worker: str) -> str:
    """The one id of what a placed run becomes on a worker; the next millisecond's, so it sorts behind its parent."""
    digest = hashlib.blake2b(f"{parent}\0{worker}".encode(), digest_size=8).digest()
    return _join(shard_of(parent), instant_of(parent) + 1, int.from_bytes(digest))


def id_at(shard: int, at_ms: int) -> str:
    """The smallest id of that millisecond: a bound for ranges by time."""
    return _join(shard, at_ms, 0)


def _join(shard: int, at_ms: int, bits: int) -> str:
    return f"r{shard}-{_instant(at_ms)}{_randomness(bits)}"


# Two digits at a time, written out: thousands of ids are made each second.
def _instant(number: int) -> str:
    of = _PAIRS
    high = of[number >> 40] + of[number >> 30 & _PAIR] + of[number >> 20 & _PAIR]
    return high + of[number >> 10 & _PAIR] + of[number & _PAIR]


def instant_of(run_id: str) -> int:
    """The epoch milliseconds in an id: when it was made, or the fire time that it stands for."""
    first = run_id.index("-") + 1
    number = 0
    for digit in run_id[first : first + 10]:
        number = number << 5 | _ALPHABET.index(digit)
    return number


def _randomness(number: int) -> str:
    of = _PAIRS
    high = _ALPHABET[number >> 60] + of[number >> 50 & _PAIR] + of[number >> 40 & _PAIR]
    return high + of[number >> 30 & _PAIR] + of[number >> 20 & _PAIR] + of[number >> 10 & _PAIR] + of[number & _PAIR]
