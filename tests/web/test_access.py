"""What a server remembers of tokens, and how soon it hears that one is worth nothing any more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from taskman.errors import StoreUnavailable
from taskman.model.token import Bootstrap, Scope, TokenRequest, digest_of, new_token
from taskman.plugins import PluginRegistry
from taskman.store.store import Store
from taskman.web.access import Access
from taskman.web.auth import Rights, authenticate
from taskman.web.drain import Drain
from taskman.web.services import Services
from taskman.web.sse import EventStream


async def test_authenticating_needs_no_request(store: Store) -> None:
    access = Access(store, {"bootstrap-token-0": Bootstrap("admin")})
    services = Services(store, PluginRegistry(), Drain(), "UTC", access, b"key")
    token, secret = await store.tokens.create(TokenRequest(scope=Scope.WORKER, name="box"), by="token:admin")
    found = await authenticate(services, secret)
    assert found is not None
    assert (found.by, found.scope, found.id) == ("token:box", "worker", token.id)
    assert found.may("worker")
    assert not found.may("read")
    assert await authenticate(services, new_token()) is None
    assert await authenticate(services, "nonsense") is None
    boss = await authenticate(services, "bootstrap-token-0")
    assert boss is not None
    assert boss.may("worker")
    assert boss.may("admin")


async def test_a_revocation_between_question_and_answer_is_not_forgotten(store: Store, nursery: trio.Nursery) -> None:
    access = Access(store, {})
    await nursery.start(access.run)
    _, secret = await store.tokens.create(TokenRequest(scope=Scope.READ), by="token:admin")
    found = store.tokens.find

    async def find_and_be_overtaken(token_id: str) -> Any:
        answer = await found(token_id)
        await store.tokens.revoke(token_id)
        await trio.testing.wait_all_tasks_blocked(0.05)
        return answer

    store.tokens.find = find_and_be_overtaken  # type: ignore[method-assign]  # what a slow link does
    assert await access.identify(secret) is not None
    store.tokens.find = found  # type: ignore[method-assign]
    assert await access.identify(secret) is None


async def test_where_a_token_is_revoked_it_is_worth_nothing_at_once(store: Store) -> None:
    access = Access(store, {})  # hears no events
    token, secret = await store.tokens.create(TokenRequest(scope=Scope.READ), by="token:admin")
    assert await access.identify(secret) is not None
    assert await access.revoke(token.id)
    assert await access.identify(secret) is None
    assert not await access.revoke(token.id)


async def test_whoever_holds_a_connection_hears_of_the_end_of_its_token(store: Store, nursery: trio.Nursery) -> None:
    access = Access(store, {})
    await nursery.start(access.run)
    token, _ = await store.tokens.create(TokenRequest(scope=Scope.WORKER), by="x")
    other, _ = await store.tokens.create(TokenRequest(scope=Scope.WORKER), by="x")
    with trio.fail_after(5):
        async with trio.open_nursery() as connections:
            connections.start_soon(access.wait_until_ended, token.id)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await store.tokens.revoke(other.id)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert connections.child_tasks, "another token has ended, not this one"
            await store.tokens.revoke(token.id)


class Endless:
    """A source with one event after another."""

    def __init__(self) -> None:
        self.is_closed = False

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return b"data: x\n\n"

    def close(self) -> None:
        self.is_closed = True


async def test_a_stream_ends_when_the_token_of_its_reader_does(store: Store) -> None:
    access = Access(store, {})
    token, _ = await store.tokens.create(TokenRequest(scope=Scope.READ), by="x")

    async def ask() -> bool:
        return await access.is_valid(token.id)

    stream = EventStream(Endless(), Drain(), rights=Rights(ask, every_s=0))
    with trio.fail_after(20):
        blocks = [await anext(stream) for _ in range(10)]
        assert len(blocks) == 10
        await store.tokens.revoke(token.id)
        async for _ in stream:  # at most as long as the token is remembered
            await trio.sleep(0.05)


async def test_an_outage_ends_no_stream(tmp_path: Path) -> None:
    access = Access(Store(f"unix://{tmp_path / 'nowhere.sock'}"), {})
    assert await Rights(lambda: access.is_valid("0" * 16), every_s=0).last()


async def test_use_is_written_once_a_minute_and_memory_is_bounded(store: Store, monkeypatch: Any) -> None:
    monkeypatch.setattr("taskman.web.access._MOST", 3)
    access = Access(store, {})
    made = [await store.tokens.create(TokenRequest(scope=Scope.READ), by="x") for _ in range(5)]
    written: list[str] = []
    note_use = store.tokens.note_use

    async def count(token_id: str, now_ms: int) -> None:
        written.append(token_id)
        await note_use(token_id, now_ms)

    monkeypatch.setattr(store.tokens, "note_use", count)
    for _ in range(3):
        for _, secret in made:
            assert await access.identify(secret) is not None
    assert sorted(written) == sorted(token.id for token, _ in made)
    assert len(access._known) == 3


async def test_nothing_is_kept_of_a_use_after_the_revocation(store: Store) -> None:
    token, _ = await store.tokens.create(TokenRequest(scope=Scope.READ), by="x")
    await store.tokens.revoke(token.id)
    await store.tokens.note_use(token.id, 1)
    assert await store.connection.execute("HLEN", "tm:{0}:token-uses") == 0


async def test_a_token_is_found_by_its_id_alone_but_believed_by_its_whole_digest(store: Store) -> None:
    token, secret = await store.tokens.create(TokenRequest(scope=Scope.ADMIN), by="x")
    kept = await store.connection.execute("HGET", "tm:{0}:tokens", token.id)
    forged = kept.replace(digest_of(secret).hex().encode(), digest_of(secret).hex()[:16].encode() + b"0" * 48)
    await store.connection.execute("HSET", "tm:{0}:tokens", token.id, forged)
    assert await Access(store, {}).identify(secret) is None


async def test_without_redis_a_token_is_neither_good_nor_bad(tmp_path: Path) -> None:
    access = Access(Store(f"unix://{tmp_path / 'nowhere.sock'}"), {})
    with pytest.raises(StoreUnavailable):
        await access.identify(new_token())
