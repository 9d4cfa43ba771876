"""The messages between a worker and its children: JSON objects, each behind four bytes of length."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["LIMIT", "Frames", "Message", "pack"]

Message = dict[str, Any]

LIMIT = 4 * 1024 * 1024


def pack(message: Message) -> bytes:
    """The message as it is sent. Raises: TypeError, ValueError, RecursionError for what is no JSON."""
    body = json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return len(body).to_bytes(4, "big") + body


class Frames:
    """Cuts what arrives on a stream into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Take in what arrived; the messages that are complete now. Raises ValueError for what is no message."""
        self._buffer += data
        complete = []
        while len(self._buffer) >= 4:
            end = 4 + int.from_bytes(self._buffer[:4], "big")
            if end > LIMIT:
                raise ValueError(f"a message of {end:,} bytes")
            if len(self._buffer) < end:
                break
            complete.append(json.loads(self._buffer[4:end]))
            del self._buffer[:end]
        return complete
