"""What a worker leaves for its successor: a file and a socket for each process tree that may outlive it.

The directory belongs to one worker id, whose lock says who may use it: see identity.py.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic_core import from_json, to_json

from ..model.ids import is_run_id
from ..model.run import RunSpec
from ..store.runs import Assignment

__all__ = ["Entry", "Journal"]

_log = logging.getLogger("taskman.worker")


@dataclass(frozen=True, slots=True)
class Entry:
    """An attempt whose process tree is held. `began` is on the clock of `lease.now`; `scratch` its directory if any."""

    assignment: Assignment
    began: float
    scratch: Path | None = None

    @property
    def label(self) -> str:
        """What the shim calls it."""
        return f"{self.assignment.run_id}-{self.assignment.attempt}"

    def to_document(self) -> bytes:
        """As JSON."""
        one = self.assignment
        about = {"run": one.run_id, "attempt": one.attempt, "failures": one.failures, "began": self.began}
        scratch = None if self.scratch is None else str(self.scratch)
        return to_json({**about, "scratch": scratch, "spec": one.spec.to_document().decode()})

    @classmethod
    def from_document(cls, document: bytes) -> Entry:
        """The opposite. Raises: ValueError, KeyError, TypeError for what nobody can have written whole."""
        found = from_json(document)
        spec = RunSpec.from_document(found["spec"].encode())
        if not is_run_id(found["run"]):
            raise ValueError("no run id")
        scratch = None if found["scratch"] is None else Path(found["scratch"])
        assignment = Assignment(found["run"], int(found["attempt"]), spec, int(found["failures"]))
        return cls(assignment, float(found["began"]), scratch)


class Journal:
    """The entries of one worker, in a directory of its own. Every call works on the disk: use a thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, label: str) -> Path:
        """Where the socket of an entry is."""
        return self._directory / f"{label}.sock"

    def add(self, entry: Entry) -> socket.socket:
        """Write an entry down, and make the socket on which a successor can reach its shim. Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / f"{entry.label}.json"
        handle = os.open(path.with_suffix(".new"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(entry.to_document())
        with contextlib.ExitStack() as on_error:
            listener = on_error.enter_context(socket.socket(socket.AF_UNIX))
            listener.setblocking(False)
            with self._short(entry.label) as address:
                listener.bind(address)
            listener.listen(4)
            path.with_suffix(".new").rename(path)
            on_error.pop_all()
        return listener

    def remove(self, labels: Iterable[str]) -> None:
        """Forget entries whose trees are gone."""
        for label in labels:
            for suffix in ("json", "sock"):
                with contextlib.suppress(OSError):
                    os.unlink(self._directory / f"{label}.{suffix}")

    def entries(self) -> list[Entry]:
        """What a predecessor has left. What else is in the directory is removed."""
        found = {entry.label: entry for path in self._files() if (entry := _read(path)) is not None}
        for path in self._files():
            if path.stem not in found or path.suffix not in (".json", ".sock"):
                path.unlink(missing_ok=True)
        return list(found.values())

    def _files(self) -> list[Path]:
        return sorted(self._directory.iterdir()) if self._directory.is_dir() else []

    def connect(self, label: str) -> socket.socket | None:
        """A connection to the shim that holds that tree; None when there is none any more."""
        with contextlib.ExitStack() as on_error:
            connection = on_error.enter_context(socket.socket(socket.AF_UNIX))
            connection.setblocking(False)
            try:
                with self._short(label) as address:
                    connection.connect(address)
            except OSError:
                return None
            on_error.pop_all()
        return connection

    @contextlib.contextmanager
    def _short(self, label: str) -> Iterator[str]:
        """An address for the socket that is short enough for the system, however deep the directory is."""
        handle = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{handle}/{label}.sock"
        finally:
            os.close(handle)


def _read(path: Path) -> Entry | None:
    if path.suffix != ".json":
        return None
    try:
        return Entry.from_document(path.read_bytes())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("%s cannot be read, so its run is not gone on with: %s", path, error)
        return None
