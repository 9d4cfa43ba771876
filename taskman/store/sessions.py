"""Who is signed in: opaque sessions and one-time sign-in links. Redis holds digests only."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass

from ..model.token import Scope
from .connection import Connection
from .keys import Keys

__all__ = ["Session", "Sessions"]

SESSION_S = 30 * 86_400
LINK_S = 3600


@dataclass(frozen=True, slots=True)
class Session:
    """Who is signed in, and what they may do; `token` is the id of the token that they signed in with, if any."""

    user: str
    scope: Scope
    token: str | None = None


class Sessions:
    """The sessions of this installation. Every call: StoreUnavailable when Redis cannot be reached."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection, self._keys = connection, keys

    async def open(self, session: Session) -> str:
        """Sign somebody in. The secret that the browser keeps; it is stored nowhere else."""
        secret = secrets.token_urlsafe(32)
        text = json.dumps([session.user, session.scope, session.token])
        await self._connection.execute("SET", self._keys.session(_digest(secret)), text, "EX", SESSION_S)
        return secret

    async def find(self, secret: str) -> Session | None:
        """Whose session this is, while it lasts."""
        found = await self._connection.execute("GET", self._keys.session(_digest(secret)))
        return _parse(found) if found else None

    async def close(self, secret: str) -> None:
        """Sign out. Safe to repeat."""
        await self._connection.execute("DEL", self._keys.session(_digest(secret)))

    async def make_link(self, user: str) -> str:
        """The secret of a link that signs `user` in once, within the hour."""
        secret = secrets.token_urlsafe(24)
        await self._connection.execute("SET", self._keys.link(_digest(secret)), user, "EX", LINK_S)
        return secret

    async def redeem_link(self, secret: str) -> str | None:
        """Whom the link signs in; the second time nobody."""
        found = await self._connection.execute("GETDEL", self._keys.link(_digest(secret)))
        return found.decode() if found else None


def _parse(text: bytes) -> Session:
    user, scope, token = json.loads(text)
    return Session(user, Scope(scope), token)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
