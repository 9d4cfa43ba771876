"""The frames of the lifeline, as both ends write and read them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Frames", "pack"]


def pack(words: Iterable[bytes]) -> bytes:
    """Put words into a frame. Raises ValueError for a word that contains NUL."""
    listed = list(words)
    body = b"\0".join(listed)
    if body.count(b"\0") != len(listed) - 1:
        raise ValueError("an argument, a path or the environment contains a NUL character")
    return len(body).to_bytes(4, "big") + body


class Frames:
    """Cuts what arrives on a stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[list[bytes]]:
        """Take in what arrived; return the words of each frame that is now complete."""
        self._buffer += data
        complete = []
        while len(self._buffer) >= 4 and len(self._buffer) >= (end := 4 + int.from_bytes(self._buffer[:4], "big")):
            complete.append(bytes(self._buffer[4:end]).split(b"\0"))
            del self._buffer[:end]
        return complete
