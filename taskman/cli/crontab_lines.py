"""Reads a crontab as cron would: its entries with the environment that is in force for each, and what comments say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["Entry", "Trouble", "has_user_column", "read_crontab", "split_input"]

_SETTING = re.compile(r"""\s*(["']?)([A-Za-z_][\w.-]*)\1\s*=\s*(.*)""")
_ENTRY = re.compile(r"\s*-?[\d*@~?A-Za-z]")
_USER = re.compile(r"[a-z_][a-z0-9_.-]*\$?")
_DRAWING = re.compile(r"\s*([.|*][\s|*.-]|-{3})")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line that runs something: `when` is its five fields or its macro, `settings` what was set above it."""

    number: int
    text: str
    when: str
    user: str | None
    command: str
    settings: dict[str, str] = field(default_factory=dict)
    comment: str = ""
    is_quiet: bool = False


@dataclass(frozen=True, slots=True)
class Trouble:
    """A line that is neither an entry nor a setting nor a comment."""

    number: int
    text: str
    why: str


def read_crontab(text: str, *, system: bool) -> Iterator[Entry | Trouble]:
    """The entries of a crontab in order; with `system`, the sixth column is the user.

    A comment belongs to the entry right below it, unless it is a drawing or an entry that was switched off.
    """
    settings: dict[str, str] = {}
    comments: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("#"):
            comments.append(stripped.lstrip("#").strip())
            continue
        if found := _setting(line):
            settings = settings | {found[0]: found[1]}
        elif stripped:
            yield _read_entry(number, stripped, system, settings, _description(comments, system))
        comments = []


def _setting(line: str) -> tuple[str, str] | None:
    found = _SETTING.fullmatch(line.rstrip("\r\n"))
    if found is None:
        return None
    value = found[3].strip()
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return found[2], value


def _read_entry(number: int, text: str, system: bool, settings: dict[str, str], comment: str) -> Entry | Trouble:
    columns = 1 if text.lstrip("-").startswith("@") else 5
    parts = text.split(None, columns + system)
    if not _ENTRY.match(text) or len(parts) <= columns + system:
        what = "the time, the user and the command" if system else "the time and the command"
        return Trouble(number, text, f"has not all of {what}")
    when = " ".join(parts[:columns])
    user = parts[columns] if system else None
    if user is not None and not _USER.fullmatch(user):
        return Trouble(number, text, f"'{user}' is no user: this may be a crontab without that column (--user-format)")
    return Entry(number, text, when.removeprefix("-"), user, parts[-1], settings, comment, when.startswith("-"))


def _description(comments: list[str], system: bool) -> str:
    if any(_DRAWING.match(line) for line in comments):
        return ""
    kept = [line for line in comments if line and not _is_entry(line, system)]
    return " ".join(kept)[:500]


def _is_entry(line: str, system: bool) -> bool:
    words = line.split()
    return len(words) > 5 + system and all(re.fullmatch(r"[\d*/,-]+", word) for word in words[:2])


def has_user_column(text: str, users: frozenset[str]) -> bool:
    """Whether every entry names a user of this machine where /etc/crontab has one."""
    entries = [one for one in read_crontab(text, system=True) if isinstance(one, Entry)]
    troubles = sum(isinstance(one, Trouble) for one in read_crontab(text, system=True))
    return bool(entries) and not troubles and all(one.user in users for one in entries)


def split_input(command: str) -> tuple[str, str | None]:
    """The command, and what cron would send it: after the first `%`, each further one a new line; `\\%` is a `%`."""
    first, *rest = re.split(r"(?<!\\)%", command)
    sent = "\n".join(rest).replace("\\%", "%")
    if not rest:
        return first.replace("\\%", "%"), None
    return first.replace("\\%", "%"), sent if sent.endswith("\n") else sent + "\n"
