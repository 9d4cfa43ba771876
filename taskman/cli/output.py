"""What commands print: tables fitted to the terminal, documents, colours where somebody sees them, short times."""

from __future__ import annotations

import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import click

from ..model.instants import format_duration, parse_instant

__all__ = [
    "Cell",
    "duration",
    "fields",
    "notice",
    "print_json",
    "print_jsonl",
    "remaining",
    "short_time",
    "state",
    "styled",
    "table",
]

GAP = "  "
_COLOURS = {
    "succeeded": "green",
    "failed": "red",
    "timed_out": "red",
    "lost": "red",
    "cancelled": "yellow",
    "cancelling": "yellow",
    "running": "cyan",
    "draining": "yellow",
    "offline": "red",
}
Cell = str | tuple[str, str]
"""A text, or a text and its colour."""


def has_colour(err: bool = False) -> bool:
    """Whether to colour the stream: somebody looks at it, and has not asked for plain text."""
    stream = sys.stderr if err else sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, *, err: bool = False, **style: Any) -> str:
    """The text in a style such as `dim=True`, or plain where there is no colour."""
    return click.style(text, **style) if has_colour(err) else text


def notice(text: str) -> None:
    """Say something about what happened, on stderr."""
    click.echo(text, err=True, color=has_colour(err=True))


def print_json(document: object) -> None:
    """One JSON document, indented."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")


def print_jsonl(documents: Iterable[object]) -> None:
    """A JSON document a line, each as soon as it is there."""
    for document in documents:
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
        sys.stdout.flush()


def state(name: str) -> Cell:
    """The name of a state in its colour."""
    return (name, _COLOURS[name]) if name in _COLOURS else name


def short_time(text: str | None) -> str:
    """An instant in local time: without the date when it is today's, with the year when it is another one."""
    if not text:
        return "–"
    moment = datetime.fromtimestamp(parse_instant(text) / 1000)
    now = datetime.now()
    if moment.date() == now.date():
        return f"{moment:%H:%M:%S}"
    return f"{moment:%b %d %H:%M}" if moment.year == now.year else f"{moment:%Y-%m-%d %H:%M}"


def duration(start: str | None, end: str | None) -> str:
    """The time from start to end; until now when there is no end."""
    if not start:
        return "–"
    end_ms = parse_instant(end) if end else datetime.now().timestamp() * 1000
    return format_duration(max(0.0, (end_ms - parse_instant(start)) / 1000))


def remaining(text: str | None) -> str:
    """How long until an instant, or how long ago it was, without a sign."""
    if not text:
        return "–"
    return format_duration(abs(parse_instant(text) / 1000 - datetime.now().timestamp()))


def fields(pairs: Iterable[tuple[str, Cell | None]]) -> None:
    """Names and values below one another; pairs without a value are left out."""
    given = [(name, value) for name, value in pairs if value]
    width = max(len(name) for name, _ in given)
    for name, value in given:
        text, colour = value if isinstance(value, tuple) else (value, None)
        click.echo(styled(name.ljust(width), dim=True) + GAP + styled(_printable(text), fg=colour), color=has_colour())


def table(titles: Sequence[str], rows: Iterable[Sequence[Cell]], whole: Sequence[str] = ("ID",)) -> None:
    """A table as wide as the terminal at most; the columns named in `whole` are never cut.

    Where nobody looks (a pipe, a file), nothing is cut.
    """
    lines = [[(_printable(c), None) if isinstance(c, str) else (_printable(c[0]), c[1]) for c in row] for row in rows]
    natural = [max([_width(t), *(_width(line[i][0]) for line in lines)]) for i, t in enumerate(titles)]
    widths = _fit(natural, [title in whole for title in titles])
    _row([(title, None) for title in titles], widths, bold=True)
    for line in lines:
        _row(line, widths)


def _row(cells: Sequence[tuple[str, str | None]], widths: Sequence[int], **style: Any) -> None:
    shown = [
        styled(_cut(text, width), fg=colour, **style) + " " * (width - _width(_cut(text, width)))
        for (text, colour), width in zip(cells, widths, strict=True)
    ]
    click.echo(GAP.join(shown).rstrip(), color=has_colour())


def _fit(natural: list[int], is_whole: list[bool]) -> list[int]:
    """Take from the widest column that may be cut, until the row fits or nothing more can be taken."""
    widths = list(natural)
    if not sys.stdout.isatty():
        return widths
    room = shutil.get_terminal_size().columns - len(GAP) * (len(widths) - 1)
    while sum(widths) > room:
        width, column = max((0 if is_whole[i] else w, i) for i, w in enumerate(widths))
        if width <= 4:
            break
        widths[column] -= 1
    return widths


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " if c.isspace() else "�" for c in text)


def _width(text: str) -> int:
    """Columns that the text takes in a terminal."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _cut(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    while _width(text) > width - 1:
        text = text[:-1]
    return text + "…"
