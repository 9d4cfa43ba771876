"""API tokens: what they look like, what they allow, what is kept of them.

A token is `tm_`, 40 random characters (238 bits) and 6 of a checksum, all letters and digits: a search for leaked
secrets finds it by its form alone, and a mistyped one is refused without asking anybody.

Only its SHA-256 is kept. A slow hash, as for passwords, would add nothing: there is no dictionary of 238 random bits
to try, and each request would have to pay for it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .instants import format_instant
from .validation import Duration

__all__ = [
    "RESERVED_NAMES",
    "Bootstrap",
    "Scope",
    "Token",
    "TokenRequest",
    "digest_of",
    "id_of",
    "is_token",
    "new_token",
]

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_FORM = re.compile(r"tm_([0-9A-Za-z]{40})([0-9A-Za-z]{6})", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}", re.ASCII)
RESERVED_NAMES = frozenset({"admin", "local", "workers"})
"""What the tokens that a server starts with are called in the history of runs."""


class Scope(StrEnum):
    """What a token may do: each of the first four all that the one before it may, `worker` only serve as a worker."""

    READ = "read"
    RUN = "run"
    WRITE = "write"
    ADMIN = "admin"
    WORKER = "worker"

    def allows(self, needed: Scope) -> bool:
        """Whether who has this scope may do what needs that one."""
        if self is Scope.ADMIN or self is needed:
            return True
        return needed in _LADDER and self in _LADDER and _LADDER.index(needed) < _LADDER.index(self)


_LADDER = (Scope.READ, Scope.RUN, Scope.WRITE, Scope.ADMIN)


class Bootstrap(NamedTuple):
    """A token that a server starts with: what history calls it, and what it may do."""

    name: str
    scope: Scope = Scope.ADMIN


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is kept: `digest` in place of the secret, instants in epoch ms, `by` whoever created it."""

    digest: bytes
    name: str
    scope: Scope
    by: str
    created_ms: int
    expires_ms: int | None = None
    used_ms: int | None = None

    @property
    def id(self) -> str:
        return id_of(self.digest)

    def is_expired(self, now_ms: float) -> bool:
        """Whether it is over at that instant."""
        return self.expires_ms is not None and self.expires_ms <= now_ms

    def to_json(self) -> dict[str, Any]:
        """The token as the API shows it: everything but the secret, which nobody has any more."""
        return {
            "id": self.id,
            "name": self.name,
            "scope": self.scope,
            "by": self.by,
            "created_at": format_instant(self.created_ms),
            "expires_at": format_instant(self.expires_ms),
            "last_used_at": format_instant(self.used_ms),
        }


class TokenRequest(BaseModel):
    """The body of `POST /tokens`."""

    model_config = ConfigDict(extra="forbid")

    scope: Scope
    name: str | None = None
    expires: Annotated[Duration, Field(ge=1)] | None = None

    @field_validator("name")
    @classmethod
    def _can_be_a_name(cls, name: str | None) -> str | None:
        if name is not None and not _NAME.fullmatch(name):
            raise ValueError(f"'{name}' cannot be a name: use up to 100 letters, digits and . _ @ -, no blanks")
        if name in RESERVED_NAMES:
            raise ValueError(f"'{name}' is what a token of the server itself is called: choose another name")
        return name


def new_token() -> str:
    """A fresh token; this is the only time that anybody sees it."""
    body = "".join(secrets.choice(_ALPHABET) for _ in range(40))
    return f"tm_{body}{_checksum(body)}"


def is_token(text: str) -> bool:
    """Whether `text` has the form and checksum of a token; says nothing about whether it is valid."""
    match = _FORM.fullmatch(text)
    return match is not None and _checksum(match[1]) == match[2]


def digest_of(token: str) -> bytes:
    """What is kept and compared in place of a token."""
    return hashlib.sha256(token.encode()).digest()


def id_of(digest: bytes) -> str:
    """The public name of the token with that digest; tells nothing of the secret."""
    return digest.hex()[:16]


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), []
    for _ in range(6):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(digits)
