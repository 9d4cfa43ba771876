"""Pins: the signatures that one worker alone may claim. They are no crew's, whose members are alike."""

from __future__ import annotations

from collections.abc import Iterable

from ..model.admission import Node, is_placed, signature_for, worker_named

__all__ = ["Pins"]

# Of so many workers signatures are remembered; of more than that, those heard of first are learnt again when needed.
_MOST = 10_000


class Pins:
    """Learns of placed signatures, which have a pinned one for each worker, and of those that name a worker."""

    def __init__(self) -> None:
        self._placed: dict[str, None] = {}
        self._named: dict[str, dict[str, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._placed or self._named)

    def learn(self, signatures: Iterable[str]) -> list[str]:
        """Remember those that are pinned or become so; the others."""
        return [one for one in signatures if not self._remember(one)]

    def _remember(self, signature: str) -> bool:
        if worker := worker_named(signature):
            self._named.setdefault(worker, {})[signature] = None
            if len(self._named) > _MOST:
                del self._named[next(iter(self._named))]
            return True
        if is_placed(signature):
            self._placed[signature] = None
            return True
        return False

    def of(self, node: Node) -> dict[str, None]:
        """What that worker may claim and no other: what is known, whether there is such a run now or not."""
        known = [*self._named.get(node.id, ()), *self._placed]
        found = (signature_for(node, one) for one in known)
        return {one: None for one in found if one}
