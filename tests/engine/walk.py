"""A weighted random walk through the store, the same for the same seed, and a short way to where it failed."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from engine.direct import Direct
from engine.steps import WEIGHTS
from engine.twin import START, Call, Twin

SHORTEN_S = 60.0


class WalkFailed(AssertionError):
    """Store and oracle differ; `calls` is the way to it."""

    def __init__(self, story: str, calls: Sequence[Call]) -> None:
        super().__init__(story)
        self.calls = calls


def walk(direct: Direct, seed: int, steps: int) -> None:
    """Walk `steps` steps. Raises: WalkFailed with the seed and the way."""
    chance, twin = random.Random(seed), Twin(direct)
    for number, step in enumerate(chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=steps)):
        try:
            step(twin, chance.choice)
        except Exception as error:
            story = f"seed {seed} fails at step {number}, {step.__name__}: {error}"
            raise WalkFailed(story, twin.calls) from error


def fails(direct: Direct, calls: Sequence[Call]) -> bool:
    """Whether these calls alone lead to a difference."""
    twin = Twin(direct)
    try:
        for call in calls:
            twin.make(call)
    except Exception:
        return True
    return False


def shorten(direct: Direct, calls: Sequence[Call]) -> list[Call]:
    """Leave out what is not needed to fail, in ever smaller pieces, for a minute at most."""
    kept, piece, until = list(calls), len(calls) // 2, time.monotonic() + SHORTEN_S
    while piece and time.monotonic() < until:
        first = 0
        while first < len(kept) and time.monotonic() < until:
            fewer = kept[:first] + kept[first + piece :]
            if fails(direct, fewer):
                kept = fewer
            else:
                first += piece
        piece //= 2
    return kept


def tell(calls: Sequence[Call]) -> str:
    """The calls, one a line, with the time since the start."""
    return "\n".join(f"at {call.now - START} ms: {call.method}{call.arguments}" for call in calls)
