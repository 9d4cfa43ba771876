"""Dividing what is to be sent: into portions of a size, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

__all__ = ["portions"]

Item = TypeVar("Item")


def portions(items: Iterable[Item], size_of: Callable[[Item], int], limit: int) -> Iterator[list[Item]]:
    """As many items at a time as have at most `limit` together, and at least one."""
    part: list[Item] = []
    size = 0
    for item in items:
        if part and size + size_of(item) > limit:
            yield part
            part, size = [], 0
        part.append(item)
        size += size_of(item)
    if part:
        yield part
