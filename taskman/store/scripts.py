"""The Lua scripts: one file per transition, each run behind the prelude that all of them share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

__all__ = ["Script", "load_script"]


@dataclass(frozen=True, slots=True)
class Script:
    """A script as Redis knows it; `sha` is the hexadecimal SHA-1 of the source."""

    name: str
    source: bytes
    sha: str

    @classmethod
    def of(cls, name: str, source: bytes) -> Script:
        """The script with its digest."""
        return cls(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest())


@cache
def load_script(name: str) -> Script:
    """The script `lua/<name>.lua` with the prelude in front."""
    folder = files("taskman.store") / "lua"
    prelude, body = (folder / "prelude.lua").read_bytes(), (folder / f"{name}.lua").read_bytes()
    return Script.of(name, prelude + b"\n" + body)
