"""Whom a token stands for, asked at every request: the tokens of this server first, then those in the store."""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import trio

from ..errors import StoreError, StoreUnavailable
from ..model.events import TokenEvent
from ..model.token import Bootstrap, Scope, Token, digest_of, id_of, is_token
from ..store.sessions import Session
from ..store.store import Store

__all__ = ["Access", "Identity"]

KEPT_S = 5.0
_MOST = 1000
_RECHECK_S = 15.0
_USE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is asking: `by` is what history says, `id` that of their token, `session` the secret of their browser."""

    by: str
    scope: Scope
    id: str | None = None
    session: str | None = None

    def may(self, needed: str) -> bool:
        """Whether this one may do what needs that scope."""
        return self.scope.allows(Scope(needed))


@dataclass(slots=True)
class _Known:
    token: Token
    until: float


class Access:
    """Knows tokens. What it has read from the store it believes for five seconds, unless it hears of a revocation.

    Secrets are never compared, only SHA-256 digests, and those in constant time: nobody who offers tokens and takes
    the time learns anything about one that is valid.
    """

    def __init__(self, store: Store, bootstrap: Mapping[str, Bootstrap]) -> None:
        """`bootstrap`: the tokens that this server starts with; they never expire and are in no list."""
        self._store = store
        digests = {digest_of(token): preset for token, preset in bootstrap.items()}
        self._bootstrap = {key: Identity(f"token:{one.name}", one.scope, id_of(key)) for key, one in digests.items()}
        self._known: dict[str, _Known] = {}
        self._generation, self._changed = 0, trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hear of revocations for ever, whichever server they come from."""
        with self._store.events.listen(TokenEvent) as listener:
            task_status.started()
            async for batch in listener:
                revoked = [event.id for event in batch.events if isinstance(event, TokenEvent)]
                if batch.gap:
                    revoked.extend(self._known)
                if revoked or batch.gap:
                    self._forget(revoked)

    async def revoke(self, token_id: str) -> bool:
        """End a token; whether there was one. When this returns it is worth nothing here, a moment later anywhere.

        Cancellation: whether it has been revoked is unknown; to ask again does no harm. Raises: StoreUnavailable.
        """
        found = await self._store.tokens.revoke(token_id)
        self._forget([token_id])
        return found

    async def identify(self, token: str) -> Identity | None:
        """Whom `token` stands for; None when it is unknown, revoked or expired. No checkpoint while that is known.

        Raises: StoreUnavailable.
        """
        offered = digest_of(token)
        for known, identity in self._bootstrap.items():
            if hmac.compare_digest(known, offered):
                return identity
        found = await self._find(id_of(offered)) if is_token(token) else None
        if found is None or not hmac.compare_digest(found.digest, offered):
            return None
        await self._note_use(found)
        return Identity(f"token:{found.name}", found.scope, found.id)

    async def resume(self, session: Session, secret: str) -> Identity | None:
        """Whom a session stands for; None when the token that it began with is no more. Raises StoreUnavailable."""
        if session.token and not await self.is_valid(session.token):
            return None
        return Identity(f"user:{session.user}", session.scope, session.token, secret)

    async def is_valid(self, token_id: str) -> bool:
        """Whether the token of that id is neither revoked nor expired. Raises StoreUnavailable."""
        if any(identity.id == token_id for identity in self._bootstrap.values()):
            return True
        return await self._find(token_id) is not None

    async def wait_until_ended(self, token_id: str) -> None:
        """Return when the token is revoked, at once, or has expired, within seconds. Bears with an outage of Redis.

        For whoever holds a connection that began with that token.
        """
        while True:
            changed = self._changed
            with suppress(StoreUnavailable):
                if not await self.is_valid(token_id):
                    return
            with trio.move_on_after(_RECHECK_S):
                await changed.wait()

    def _forget(self, token_ids: Iterable[str]) -> None:
        """Believe nothing any more of what was read of these tokens, nor of what is being read just now."""
        for token_id in token_ids:
            self._known.pop(token_id, None)
        self._generation += 1
        self._changed.set()
        self._changed = trio.Event()

    async def _find(self, token_id: str) -> Token | None:
        known = self._known.get(token_id)
        if known is None or known.until <= trio.current_time():
            known = await self._read(token_id)
        return None if known is None or known.token.is_expired(time.time() * 1000) else known.token

    async def _read(self, token_id: str) -> _Known | None:
        generation, until = self._generation, trio.current_time() + KEPT_S
        self._known.pop(token_id, None)
        token = await self._store.tokens.find(token_id)
        if token is None:
            return None
        known = _Known(token, until)
        if generation == self._generation:  # else it may have been revoked between our question and the answer
            self._known[token_id] = known
            if len(self._known) > _MOST:
                del self._known[next(iter(self._known))]
        return known

    async def _note_use(self, token: Token) -> None:
        now_ms = round(time.time() * 1000)
        if token.used_ms is not None and now_ms < token.used_ms + _USE_MS:
            return
        if known := self._known.get(token.id):
            known.token = replace(token, used_ms=now_ms)
        with suppress(StoreError):  # a full Redis keeps no such note, and shall not keep anybody out
            await self._store.tokens.note_use(token.id, now_ms)
