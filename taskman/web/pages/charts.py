"""The geometry of small charts; templates draw them as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...model.run import Run
from .wording import now_ms

__all__ = ["Bar", "bars"]

HEIGHT = 32
_STEP, _LEAST = 10, 4


@dataclass(frozen=True, slots=True)
class Bar:
    """One run: the longer it took, the taller (in logarithms: seconds and hours fit in one chart)."""

    x: int
    height: int
    run: Run

    @property
    def y(self) -> int:
        return HEIGHT - self.height


def bars(runs: Sequence[Run], places: int) -> list[Bar]:
    """A bar for each run, the newest at the right end of `places` places; `runs` has the newest first."""
    shown = list(runs)[:places]
    lengths = [math.log1p(_seconds(run)) for run in shown]
    longest = max(lengths, default=0) or 1
    return [
        Bar((places - 1 - place) * _STEP, round(_LEAST + (HEIGHT - _LEAST) * length / longest), run)
        for place, (run, length) in enumerate(zip(shown, lengths, strict=True))
    ][::-1]


def _seconds(run: Run) -> float:
    if run.started_ms is None:
        return 0
    return max(0, (run.finished_ms or now_ms()) - run.started_ms) / 1000
