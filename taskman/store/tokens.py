"""API tokens in Redis: digests, what they allow, when they were last used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import Conflict
from ..model.token import Scope, Token, TokenRequest, digest_of, id_of, new_token
from .replies import checked
from .shard import ShardPart

__all__ = ["Tokens"]

MOST = 1000
# Tokens that are over stay in the list for a while, so that whoever wonders can see why they are refused.
KEPT_MS = 30 * 86_400_000


class Tokens(ShardPart):
    """The tokens of this installation. Every call: StoreUnavailable when Redis cannot be reached."""

    async def create(self, wanted: TokenRequest, *, by: str) -> tuple[Token, str]:
        """Make a token for whoever is to have it; the second is the secret, which is stored nowhere.

        Raises: Conflict when there are as many tokens as there may be.
        """
        if len(await self.all()) >= MOST:
            raise Conflict(f"there are {MOST:,} tokens already: revoke those that nobody uses")
        secret, now_ms = new_token(), await self._connection.now_ms()
        digest = digest_of(secret)
        expires_ms = now_ms + round(wanted.expires * 1000) if wanted.expires else None
        name = wanted.name or f"{wanted.scope}-{id_of(digest)[:6]}"
        token = Token(digest, name, wanted.scope, by, now_ms, expires_ms)
        await self._connection.execute("HSET", self._keys.tokens, token.id, _document(token))
        return token, secret

    async def find(self, token_id: str) -> Token | None:
        """The token of that id, also when it has expired; None when there is none, or it was revoked."""
        commands = (("HGET", self._keys.tokens, token_id), ("HGET", self._keys.token_uses, token_id))
        document, used = map(checked, await self._connection.execute_many(commands))
        return _parse(document, used) if document else None

    async def all(self) -> list[Token]:
        """Every token, the newest first. Those that are long over are forgotten on the way."""
        commands = (("HGETALL", self._keys.tokens), ("HGETALL", self._keys.token_uses))
        documents, uses = (_pairs(checked(reply)) for reply in await self._connection.execute_many(commands))
        tokens = [_parse(document, uses.get(token_id)) for token_id, document in documents.items()]
        now_ms = await self._connection.now_ms()
        for token in tokens:
            if token.is_expired(now_ms - KEPT_MS):
                await self.revoke(token.id)
        found = (token for token in tokens if not token.is_expired(now_ms - KEPT_MS))
        return sorted(found, key=lambda token: (-token.created_ms, token.id))

    async def revoke(self, token_id: str) -> bool:
        """End a token on every server at once; whether there was one. Source: lua/revoke_token.lua."""
        return bool(await self._script("revoke_token", token_id))

    async def note_use(self, token_id: str, now_ms: int) -> None:
        """Keep when the token was used; nothing of one that has been revoked meanwhile."""
        await self._connection.execute("HSET", self._keys.token_uses, token_id, now_ms)
        if not await self._connection.execute("HEXISTS", self._keys.tokens, token_id):
            await self._connection.execute("HDEL", self._keys.token_uses, token_id)


def _pairs(reply: list[bytes]) -> Mapping[bytes, bytes]:
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _document(token: Token) -> str:
    kept: dict[str, Any] = {"digest": token.digest.hex(), "name": token.name, "scope": token.scope, "by": token.by}
    return json.dumps({**kept, "created_ms": token.created_ms, "expires_ms": token.expires_ms})


def _parse(document: bytes, used: bytes | None) -> Token:
    kept = json.loads(document)
    return Token(
        digest=bytes.fromhex(kept["digest"]),
        name=kept["name"],
        scope=Scope(kept["scope"]),
        by=kept["by"],
        created_ms=kept["created_ms"],
        expires_ms=kept["expires_ms"],
        used_ms=int(used) if used else None,
    )
