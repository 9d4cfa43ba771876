"""What there is to know of a task type where it is not installed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["TypeDescription"]


@dataclass(frozen=True, slots=True)
class TypeDescription:
    """A task type as whoever has it describes it: `schema` is the JSON Schema of its params."""

    name: str
    version: str
    description: str
    schema: Mapping[str, Any]
