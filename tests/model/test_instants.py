"""Durations as people write them."""

from __future__ import annotations

import pytest

from taskman.model.instants import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("1h30m", 5400), ("1 h 5 s", 3605), ("250ms", 0.25), (7, 7), ("7", 7)],
)
def test_durations_are_read(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "abc", "5x", "-1s", "1e99", True, None, "11y", "nan"])
def test_other_durations_are_refused(text: object) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.01, "10 ms"), (1.24, "1.2 s"), (245, "4 min 5 s"), (3600, "1 h"), (183_600, "2 d 3 h")]
)
def test_durations_are_told_in_two_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
