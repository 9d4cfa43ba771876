"""Scratch directories: one for each attempt that wants one, private, and gone when the attempt is."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

import trio

__all__ = ["Scratch"]

REMOVE_S = 30.0
_log = logging.getLogger("taskman.worker")


class Scratch:
    """The scratch directories of one worker, below `root`, which is made when the first one is wanted.

    Without a root they are in the system's temporary directory, and nobody sweeps after a worker that was killed.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._root = root

    def make(self, run_id: str, attempt: int) -> Path:
        """A new, empty directory that only this user may enter. Raises OSError."""
        if self._root is not None:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{run_id}-{attempt}-", dir=self._root))

    async def remove(self, path: Path) -> None:
        """Remove a directory with all that is in it, also what is read-only; links are removed, never followed.

        Cancellation: it is removed all the same. What cannot be removed in 30 s is left to the next `sweep`.
        """
        with trio.move_on_after(REMOVE_S, shield=True) as patience:
            await trio.to_thread.run_sync(_remove, path, abandon_on_cancel=True)
        if patience.cancelled_caught:
            _log.warning("%s is not removed after %g s: the next start will see to it", path, REMOVE_S)

    def leftovers(self, but: Collection[Path] = ()) -> list[Path]:
        """What a worker that was killed has left here, `but` for what is in use again.

        Only who holds its lock may ask, before anything is made.
        """
        found = sorted(self._root.iterdir()) if self._root is not None and self._root.is_dir() else []
        return [path for path in found if path not in but]

    async def sweep(self, leftovers: list[Path]) -> None:
        """Remove what `leftovers` has found; new directories may be made meanwhile."""
        for path in leftovers:
            _log.info("removing the scratch directory of an attempt that was cut off: %s", path.name)
            await trio.to_thread.run_sync(_remove, path, abandon_on_cancel=True)


def _remove(path: Path) -> None:
    try:
        _unlock(path)
        shutil.rmtree(path)  # opens by descriptors: a link that takes a directory's place is not followed
    except OSError as error:
        _log.warning("the scratch directory %s cannot be removed: %s", path, error)


def _unlock(top: Path) -> None:
    """Let us write to every directory, without which nothing in it can be removed."""
    _make_writable(top)
    for parent, names, _ in os.walk(top):
        for name in names:
            _make_writable(Path(parent, name))


def _make_writable(path: Path) -> None:
    with contextlib.suppress(OSError):  # a link to a directory, or somebody else's: removing it will tell
        handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        finally:
            os.close(handle)
