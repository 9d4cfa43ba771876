"""Terminal output as HTML: colours become classes, every other control sequence goes, the text is escaped."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

__all__ = ["styled"]

# one alternative with a group: colours and weights; all others are dropped
_CONTROL = re.compile(
    r"\x1b\[([0-9;:]*)m|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"
    r"|\x1b[ -/]*[0-~]?|[\0-\x08\x0a-\x1f\x7f]"
)
_WEIGHTS = {1: "b", 2: "d", 3: "i", 4: "u", 9: "s"}
_ENDS = {22: ("b", "d"), 23: ("i",), 24: ("u",), 29: ("s",)}
_BASE = ((0, 0, 0), (205, 0, 0), (0, 205, 0), (205, 205, 0), (0, 0, 238), (205, 0, 205), (0, 205, 205), (229, 229, 229))


def styled(text: str) -> Markup:
    """One line of output. What a carriage return has overwritten (a progress bar's past) is left out."""
    text = text.rstrip("\r")
    if "\r" in text:
        text = text[text.rindex("\r") + 1 :]
    if "\x1b" not in text and text.isprintable():
        return escape(text)
    return _convert(text)


def _convert(text: str) -> Markup:
    parts: list[Markup] = []
    classes: set[str] = set()
    at = 0
    for match in _CONTROL.finditer(text):
        parts.append(_span(text[at : match.start()], classes))
        at = match.end()
        if match[1] is not None:
            classes = _applied(match[1], classes)
    parts.append(_span(text[at:], classes))
    return Markup("").join(parts)


def _span(text: str, classes: set[str]) -> Markup:
    if not text or not classes:
        return escape(text)
    return Markup('<span class="{}">{}</span>').format(" ".join(sorted(classes)), text)


def _applied(sequence: str, classes: set[str]) -> set[str]:
    codes = [int(code) for code in re.split("[;:]", sequence)[:32] if code.isdigit()] or [0]
    now = set(classes)
    while codes:
        code = codes.pop(0)
        if code == 0:
            now.clear()
        elif code in _WEIGHTS:
            now.add("a-" + _WEIGHTS[code])
        elif code in _ENDS:
            now -= {"a-" + one for one in _ENDS[code]}
        elif 30 <= code <= 39 or 90 <= code <= 97:
            now = {one for one in now if not one.startswith("a-c")} | _colour(code, codes)
        elif code == 48:
            _extended(codes)
    return now


def _colour(code: int, rest: list[int]) -> set[str]:
    if code == 39:
        return set()
    number = _extended(rest) if code == 38 else code - 30 if code < 40 else code - 82
    return set() if number is None else {f"a-c{number}"}


def _extended(rest: list[int]) -> int | None:
    """One of 256 or of all colours, brought down to the sixteen that the style sheet has for light and dark."""
    mode = rest.pop(0) if rest else 0
    if mode == 2:
        red, green, blue = [rest.pop(0) if rest else 0 for _ in range(3)]
        return _nearest(red, green, blue)
    if mode != 5 or not rest:
        return None
    number = min(rest.pop(0), 255)
    if number < 16:
        return number
    if number >= 232:
        return _nearest(*[8 + 10 * (number - 232)] * 3)
    cube = [0, 95, 135, 175, 215, 255]
    number -= 16
    return _nearest(cube[number // 36], cube[number // 6 % 6], cube[number % 6])


def _nearest(red: int, green: int, blue: int) -> int:
    return min(range(8), key=lambda n: sum((a - b) ** 2 for a, b in zip(_BASE[n], (red, green, blue), strict=True)))
