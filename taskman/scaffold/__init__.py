"""The beginning of a plugin: what `taskman plugins new NAME` makes, from the templates beside this file."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from ..errors import Conflict, InvalidInput
from ..plugins import discover

__all__ = ["PREFIX", "make_plugin"]

PREFIX = "taskman-"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 40


def make_plugin(name: str, directory: Path) -> Path:
    """Make the distribution `taskman-NAME` below `directory`; its path.

    Raises: InvalidInput for a name that cannot be one, Conflict when something of that name is there already.
    """
    words = _checked(name).split("-")
    target = directory / f"{PREFIX}{'-'.join(words)}"
    if os.path.lexists(target):
        raise Conflict(f"{target} exists already: choose another name, or remove it first")
    texts = {
        "@name@": "-".join(words),
        "@distribution@": target.name,
        "@module@": target.name.replace("-", "_"),
        "@Class@": "".join(word.capitalize() for word in words),
        "@title@": " ".join(words).capitalize(),
    }
    try:
        for path, text in _template(files("taskman.scaffold") / "template", texts):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_text(text)
    except OSError as error:
        raise Conflict(f"cannot make {target}: {error.strerror or error}") from error
    return target


def _checked(name: str) -> str:
    bare = name.removeprefix(PREFIX)
    if not _NAME.fullmatch(bare) or len(bare) > _LONGEST:
        better = "-".join(re.findall(r"[a-z0-9]+", bare.lower())).lstrip("-0123456789")[:_LONGEST].strip("-")
        hint = f"; for example: taskman plugins new {better}" if better else ""
        raise InvalidInput(
            f"'{name}' cannot be the name of a plugin: use small letters, digits and single dashes, a letter first, "
            f"{_LONGEST} at most{hint}"
        )
    if bare in discover().task_types:
        raise Conflict(f"the task type '{bare}' is installed already: choose another name")
    return bare


def _template(folder: Traversable, texts: dict[str, str], below: str = "") -> list[tuple[str, str]]:
    """Every file of the template with the names filled in: its path, and its text."""
    found = []
    for entry in sorted(folder.iterdir(), key=lambda one: one.name):
        path = below + _filled(entry.name.removesuffix(".in"), texts)
        if entry.is_dir():
            found += _template(entry, texts, f"{path}/")
        elif entry.name.endswith(".in"):
            found.append((path, _filled(entry.read_text(), texts)))
    return found


def _filled(text: str, texts: dict[str, str]) -> str:
    return re.sub("|".join(map(re.escape, texts)), lambda found: texts[found[0]], text)
