"""What a worker could not deliver, on disk until a server has acknowledged it: output and results.

One file for each attempt, of messages as they go over the wire, each behind its length and checksum: a torn end is
not read. Results are written through to the disk. What is delivered twice changes nothing.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import trio

from ..model.ids import is_run_id

__all__ = ["Key", "Spool", "Spooled"]

Key = tuple[str, int]
_HEAD = struct.Struct(">II")  # bytes, CRC-32
_FILE = re.compile(r"(.+)\.([0-9]{1,9})")


class Spooled:
    """The undelivered messages of one attempt, in order. `has_result`: the last of them says how it ended."""

    def __init__(self, key: Key, path: Path) -> None:
        self.key, self.path = key, path
        self.size = self.delivered = self.writers = 0
        self.has_result = False

    @property
    def is_delivered(self) -> bool:
        return self.delivered >= self.size and not self.writers

    def read(self, limit: int) -> list[tuple[bytes, int]]:
        """The next undelivered messages, of `limit` bytes or one; each with the offset behind it."""
        found: list[tuple[bytes, int]] = []
        with self.path.open("rb") as file:
            file.seek(self.delivered)
            end = self.delivered
            for message in _records(file.read(max(limit, _HEAD.size))):
                end += _HEAD.size + len(message)
                found.append((message, end))
            if not found:
                file.seek(self.delivered)
                found = [(message, self.delivered + _HEAD.size + len(message)) for message in _first_record(file)]
        return found


class Spool:
    """Everything undelivered of one worker, in a directory of its own. At most `limit` bytes of output."""

    def __init__(self, directory: Path, limit: int) -> None:
        self._directory, self._limit = directory, limit
        self._entries: dict[Key, Spooled] = {}
        self._size = 0
        self._shrunk = trio.Event()

    def load(self) -> list[Spooled]:
        """What a process before this one has left behind, the oldest first."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        paths = sorted(self._directory.iterdir(), key=lambda path: path.stat().st_mtime)
        return [entry for path in paths if (entry := self._load(path)) is not None]

    def _load(self, path: Path) -> Spooled | None:
        name = _FILE.fullmatch(path.name)
        if name is None or not is_run_id(name[1]):
            return None
        entry = Spooled((name[1], int(name[2])), path)
        entry.size = sum(_HEAD.size + len(message) for message in _records(path.read_bytes()))
        os.truncate(path, entry.size)
        self._entries[entry.key] = entry
        self._size += entry.size
        return entry

    def last(self, key: Key) -> bytes | None:
        """The last message of an attempt, as a process before this one has left it. Reads the whole file."""
        entry = self._entries.get(key)
        return None if entry is None else next(reversed(list(_records(entry.path.read_bytes()))), None)

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[Spooled]:
        return iter(list(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)

    async def add_log(self, key: Key, messages: Sequence[bytes]) -> None:
        """Keep output; waits while the spool is full, which slows whoever writes it."""
        while self._size >= self._limit:
            self._shrunk = trio.Event()
            await self._shrunk.wait()
        await self._append(key, messages, is_result=False)

    async def add_result(self, key: Key, message: bytes) -> None:
        """Keep how an attempt ended, behind its output. There is always room for that."""
        await self._append(key, [message], is_result=True)

    async def _append(self, key: Key, messages: Sequence[bytes], *, is_result: bool) -> None:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = Spooled(key, self._directory / f"{key[0]}.{key[1]}")
        data = b"".join(_HEAD.pack(len(one), zlib.crc32(one)) + one for one in messages)
        entry.writers += 1
        try:
            with trio.CancelScope(shield=True):  # half a record would hide all that comes behind it
                await trio.to_thread.run_sync(_write, entry.path, data, is_result)
            entry.size += len(data)
        finally:
            entry.writers -= 1
        entry.has_result = entry.has_result or is_result
        self._size += len(data)

    def discard(self, entry: Spooled) -> None:
        """Forget what has been delivered, or what nobody wants."""
        if self._entries.get(entry.key) is entry:
            del self._entries[entry.key]
            self._size -= entry.size
            entry.path.unlink(missing_ok=True)
            self._shrunk.set()


def _write(path: Path, data: bytes, is_result: bool) -> None:
    with path.open("ab", buffering=0) as file:
        start = file.tell()
        try:
            written = 0
            while written < len(data):
                written += file.write(data[written:])
            if is_result:
                os.fsync(file.fileno())
        except OSError:
            file.truncate(start)
            raise


def _records(data: bytes) -> Iterator[bytes]:
    """The whole messages at the beginning of some bytes."""
    start = 0
    while start + _HEAD.size <= len(data):
        length, checksum = _HEAD.unpack_from(data, start)
        message = data[start + _HEAD.size : start + _HEAD.size + length]
        if len(message) < length or zlib.crc32(message) != checksum:
            return
        yield message
        start += _HEAD.size + length


def _first_record(file: BinaryIO) -> list[bytes]:
    """A message that is longer than what was read at first."""
    head = file.read(_HEAD.size)
    length = _HEAD.unpack(head)[0] if len(head) == _HEAD.size else 0
    return list(_records(head + file.read(length)))
