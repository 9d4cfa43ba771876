"""Progress: what a task may report, and how it reads."""

from __future__ import annotations

import math
from typing import Any

import pytest

from taskman.model.progress import MESSAGE_LIMIT, Progress


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (Progress(0, 3), "0 of 3 (0 %)"),
        (Progress(2, 3, "copying"), "2 of 3 (66 %): copying"),
        (Progress(999, 1000), "999 of 1,000 (99 %)"),
        (Progress(1_500_000, 3_000_000), "1,500,000 of 3,000,000 (50 %)"),
        (Progress(0.5, 2.0), "0.5 of 2 (25 %)"),
        (Progress(7), "7 done"),
        (Progress(7, None, "rows"), "7 done: rows"),
        (Progress(0, 0), "0 of 0"),
        (Progress(5, 3), "5 of 3 (100 %)"),
    ],
)
def test_words(progress: Progress, words: str) -> None:
    assert progress.words == words


@pytest.mark.parametrize("values", [(1, 2, "half"), (0, None, None), (1.25, 2.5, "ü \ud800"), (3, 3, "x" * 9000)])
def test_what_was_reported_can_be_kept_and_read(values: tuple[Any, ...]) -> None:
    told = Progress.checked(*values)
    attempt, kept = Progress.from_field(f"2 1700000000000 {told.to_document()}")
    assert (attempt, kept.at_ms) == (2, 1700000000000)
    assert (kept.done, kept.total, kept.message) == (told.done, told.total, told.message)
    assert len(kept.message or "") <= MESSAGE_LIMIT + 10
    kept.words.encode()


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ((-1,), "done"),
        ((math.nan,), "done"),
        ((1, math.inf), "total"),
        (("1",), "done"),
        ((True,), "done"),
        ((None,), "done"),
        ((1, 2, 3), "message"),
    ],
)
def test_nonsense_is_refused_by_name(values: tuple[Any, ...], name: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"'{name}'"):
        Progress.checked(*values)
