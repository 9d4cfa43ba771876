"""How output becomes numbered lines."""

from __future__ import annotations

import pytest

from taskman.model.loglines import MAX_LINE, split_complete, split_lines


def test_lines_are_numbered_and_the_unfinished_one_is_marked() -> None:
    lines = list(split_lines(5, 1, "out", b"a\n\nb"))
    assert [(line.line, line.data, line.partial) for line in lines] == [
        (5, b"a", False),
        (6, b"", False),
        (7, b"b", True),
    ]


def test_output_waits_for_the_rest_of_its_line_unless_that_is_very_long() -> None:
    assert split_complete(b"a\nb") == (b"a\n", b"b")
    assert split_complete(b"x" * MAX_LINE) == (b"x" * MAX_LINE, b"")


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_long_line_is_never_cut_within_a_character(cut: int) -> None:
    character = "😀".encode()
    whole, rest = split_complete(b"x" * MAX_LINE + character[:cut])
    assert whole == b"x" * MAX_LINE
    assert rest == character[:cut]


def test_bytes_that_are_no_utf8_are_not_held_back_for_ever() -> None:
    whole, rest = split_complete(b"\x80" * (MAX_LINE + 10))
    assert whole + rest == b"\x80" * (MAX_LINE + 10)
    assert len(rest) < 4
