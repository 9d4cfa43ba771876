"""The Python SDK for Trio: what taskman.client does, without blocking. See there for what each method means."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast
from uuid import uuid4

import httpx2
import trio

from . import dialogue
from .answers import Document, LogLine, Run, Submitted, definition_of
from .client import PATIENCE_S
from .dialogue import Ask, Contact, Dialogue, Hear, Listen, Pause, Step, Tell, answer, ask, segment
from .errors import ServerUnreachable, TaskmanError
from .place import place_of
from .transport import Talk, Wire

if TYPE_CHECKING:
    from datetime import datetime

    from _typeshed import StrPath

__all__ = ["AsyncClient", "Items"]

_CLEANUP_S = 2.0

Answer = TypeVar("Answer")
Item = TypeVar("Item")


class AsyncClient:
    """Client under Trio, as `async with AsyncClient() as client`; its methods may be called by many tasks at once.

    Cancellation: a request that is cancelled may have arrived, as with a lost reply.
    Raises: as Client.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        ca_file: StrPath | None = None,
        agent: str = "taskman-sdk",
        patience_s: float = PATIENCE_S,
    ) -> None:
        place = place_of(url, token, ca_file)
        self._contact = Contact(patience_s)
        self._wire = Wire(place.url, place.token, agent, self._contact, place.ca_file)
        self._http = httpx2.AsyncClient(**self._wire.options())
        self._open: set[Items[Any]] = set()

    @property
    def url(self) -> str:
        """The address of the server."""
        return self._wire.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection, also those of iterations that were left midway."""
        for items in list(self._open):
            await items.aclose()
        with trio.move_on_after(_CLEANUP_S, shield=True):
            await self._http.aclose()

    async def request(
        self,
        method: str,
        path: str,
        json: object = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """See Client.request."""
        return await self._do(answer(self._contact, ask(method, path, json, params, headers)))

    # runs

    async def submit(
        self, type: str, params: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None, **options: Any
    ) -> Run:
        """See Client.submit."""
        return await self._submit("/runs", {"type": type, "params": params or {}, **options}, idempotency_key)

    async def run_task(
        self, name: str, params: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None, **options: Any
    ) -> Run:
        """See Client.run_task."""
        body = options if params is None else {"params": params, **options}
        return await self._submit(f"/tasks/{segment(name)}/runs", body, idempotency_key)

    async def submit_many(self, bodies: Iterable[Mapping[str, Any]]) -> list[Submitted]:
        """See Client.submit_many."""
        return await self._do(dialogue.submit_many(self._contact, bodies))

    async def get(self, run_id: str) -> Run:
        """See Client.get."""
        return Run.of(await self.request("GET", f"/runs/{segment(run_id)}"))

    def runs(self, **filters: Any) -> Items[Run]:
        """See Client.runs."""
        return self._tell(dialogue.items(self._contact, "/runs", filters), Run.of)

    async def wait(self, run_id: str, timeout: float | None = None) -> Run:
        """See Client.wait."""
        return await self._do(dialogue.wait(self._contact, run_id, timeout))

    async def cancel(self, run_id: str, *, force: bool = False) -> Run:
        """See Client.cancel."""
        return Run.of(await self.request("POST", f"/runs/{segment(run_id)}/cancel", {"force": True} if force else {}))

    async def retry(self, run_id: str, params: Mapping[str, Any] | None = None) -> Run:
        """See Client.retry."""
        body = {} if params is None else {"params": params}
        return Run.of(await self.request("POST", f"/runs/{segment(run_id)}/retry", body))

    async def delete(self, run_id: str) -> None:
        """See Client.delete."""
        await self.request("DELETE", f"/runs/{segment(run_id)}")

    async def why(self, run_id: str) -> Document:
        """See Client.why."""
        return cast(Document, await self.request("GET", f"/runs/{segment(run_id)}/why"))

    def logs(self, run_id: str, *, follow: bool = False, attempt: int | None = None, after: int = 0) -> Items[LogLine]:
        """See Client.logs."""
        if follow:
            return self._tell(dialogue.follow(self._contact, run_id, attempt, after))
        return self._tell(dialogue.read(dialogue.log_at(run_id, attempt, after)))

    def log_bytes(self, run_id: str, attempt: int | None = None) -> Items[bytes]:
        """See Client.log_bytes."""
        return self._tell(dialogue.bytes_of(dialogue.log_at(run_id, attempt, accept="text/plain")))

    # tasks

    def tasks(self, **filters: Any) -> Items[Document]:
        """See Client.tasks."""
        return self._tell(dialogue.items(self._contact, "/tasks", filters))

    async def task(self, name: str) -> Document:
        """See Client.task."""
        return cast(Document, await self.request("GET", f"/tasks/{segment(name)}"))

    async def create_task(self, body: Mapping[str, Any]) -> Document:
        """See Client.create_task."""
        return cast(Document, await self.request("POST", "/tasks", body))

    async def put_task(self, name: str, body: Mapping[str, Any]) -> Document:
        """See Client.put_task."""
        return cast(Document, await self.request("PUT", f"/tasks/{segment(name)}", definition_of(body)))

    async def delete_task(self, name: str) -> None:
        """See Client.delete_task."""
        await self.request("DELETE", f"/tasks/{segment(name)}")

    # the rest

    async def queues(self) -> list[Document]:
        """See Client.queues."""
        return [one async for one in self._tell(dialogue.items(self._contact, "/queues", {}))]

    async def pause_queue(self, name: str, *, paused: bool = True) -> Document:
        """See Client.pause_queue."""
        verb = "pause" if paused else "resume"
        return cast(Document, await self.request("POST", f"/queues/{segment(name)}/{verb}"))

    async def workers(self) -> list[Document]:
        """See Client.workers."""
        return [one async for one in self._tell(dialogue.items(self._contact, "/workers", {}))]

    async def worker(self, worker_id: str) -> Document:
        """See Client.worker."""
        return cast(Document, await self.request("GET", f"/workers/{segment(worker_id)}"))

    async def drain_worker(self, worker_id: str, *, draining: bool) -> Document:
        """See Client.drain_worker."""
        verb = "drain" if draining else "resume"
        return cast(Document, await self.request("POST", f"/workers/{segment(worker_id)}/{verb}"))

    async def next_of(self, name: str, count: int = 10) -> list[Document]:
        """See Client.next_of."""
        found = cast(Document, await self.request("GET", f"/tasks/{segment(name)}/next", params={"n": count}))
        return cast(list[Document], found["items"])

    async def pause_task(self, name: str, *, paused: bool = True) -> Document:
        """See Client.pause_task."""
        verb = "pause" if paused else "resume"
        return cast(Document, await self.request("POST", f"/tasks/{segment(name)}/{verb}"))

    def ledger(self, name: str, **filters: Any) -> Items[Document]:
        """See Client.ledger."""
        return self._tell(dialogue.items(self._contact, f"/tasks/{segment(name)}/ledger", filters))

    async def skip_next(self, name: str, schedule: int | None = None, at: datetime | str | None = None) -> Document:
        """See Client.skip_next."""
        body = {name: value for name, value in (("schedule", schedule), ("at", at)) if value is not None}
        return cast(Document, await self.request("POST", f"/tasks/{segment(name)}/skip", body))

    async def backfill(self, name: str, since: str, to: str, *, dry_run: bool = False) -> Document:
        """See Client.backfill."""
        body = {"from": since, "to": to, "dry_run": dry_run}
        return cast(Document, await self.request("POST", f"/tasks/{segment(name)}/backfill", body))

    def schedules(self, **filters: Any) -> Items[Document]:
        """See Client.schedules."""
        return self._tell(dialogue.items(self._contact, "/schedules", filters))

    async def tokens(self) -> list[Document]:
        """See Client.tokens."""
        return [one async for one in self._tell(dialogue.items(self._contact, "/tokens", {}))]

    async def create_token(self, scope: str, name: str | None = None, expires: object = None) -> Document:
        """See Client.create_token."""
        wanted = {"scope": scope, "name": name, "expires": expires}
        body = {key: value for key, value in wanted.items() if value is not None}
        return cast(Document, await self.request("POST", "/tokens", body))

    async def revoke_token(self, token_id: str) -> None:
        """See Client.revoke_token."""
        await self.request("DELETE", f"/tokens/{segment(token_id)}")

    # how a dialogue is had

    async def _submit(self, path: str, body: Mapping[str, Any], key: str | None) -> Run:
        return Run.of(await self.request("POST", path, body, headers={"Idempotency-Key": key or uuid4().hex}))

    async def _do(self, dialogue: Dialogue[Answer]) -> Answer:
        talk = Talk(dialogue)
        steps: Items[object] = Items(self._http, self._wire, talk, self._open)
        async with steps:
            async for _ in steps:
                pass
        return talk.result

    def _tell(self, dialogue: Dialogue[None], form: Callable[[Any], Any] | None = None) -> Items[Any]:
        return Items(self._http, self._wire, Talk(dialogue), self._open, form)


class Items(Generic[Item]):
    """What a dialogue tells, as an async iterator.

    Leave it midway through `async with` or `aclose`, which frees its connection; otherwise the client does when it
    is closed. Cancellation: a list, and a log that is followed, can be iterated on, and nothing is lost.
    """

    def __init__(
        self,
        http: httpx2.AsyncClient,
        wire: Wire,
        talk: Talk[Any],
        all_open: set[Items[Any]],
        form: Callable[[Any], Item] | None = None,
    ) -> None:
        self._http, self._wire, self._talk, self._all_open, self._form = http, wire, talk, all_open, form
        self._response: httpx2.Response | None = None
        self._chunks: AsyncIterator[bytes] | None = None
        self._has_ended = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        while not self._has_ended:
            await trio.lowlevel.checkpoint_if_cancelled()  # before the step, or what it tells would be lost
            step = self._next_step()
            if step is None:
                break
            if isinstance(step, Tell):
                return self._form(step.value) if self._form else cast(Item, step.value)
            await self._take(step)
        await self.aclose()
        raise StopAsyncIteration

    def _next_step(self) -> Step | None:
        try:
            return self._talk.step()
        except BaseException:
            self._has_ended = True
            raise

    async def _take(self, step: Step) -> None:
        """Take a step; what keeps it from being taken goes into the dialogue, which may bear with it."""
        try:
            self._talk.answer(await self._taken(step))
        except TaskmanError as error:
            self._talk.fail(error)
        except BaseException:
            if not isinstance(step, Pause):
                self._talk.fail(ServerUnreachable("the request was cancelled", is_lost_reply=True))
            await self._close_stream()
            raise

    async def _taken(self, step: Step) -> Any:
        if isinstance(step, Ask):
            with self._wire.reaching():
                response = await self._http.send(self._http.build_request(**self._wire.request(step)))
            self._wire.check(response)
            return self._wire.document(response)
        if isinstance(step, Listen):
            return await self._listen(step)
        if isinstance(step, Hear):
            assert self._chunks is not None
            with self._wire.reaching():
                return await anext(self._chunks, None)
        assert isinstance(step, Pause)
        return await trio.sleep(step.seconds)

    async def _listen(self, step: Listen) -> None:
        await self._close_stream()
        self._all_open.add(self)
        with self._wire.reaching():
            request = self._http.build_request(**self._wire.request(step))
            self._response = response = await self._http.send(request, stream=True)
            if not response.is_success:
                await response.aread()
        self._wire.check(response)
        self._chunks = response.aiter_bytes()

    async def aclose(self) -> None:
        """End the iteration and free its connection. Safe to repeat."""
        self._has_ended = True
        await self._close_stream()

    async def _close_stream(self) -> None:
        self._all_open.discard(self)
        response, chunks = self._response, self._chunks
        self._response = self._chunks = None
        with trio.move_on_after(_CLEANUP_S, shield=True):
            if response is not None:
                await response.aclose()
            # Closing leaves the HTTP library's inner generators suspended, and Trio complains when they are collected.
            # Asked for more from a closed connection, they end with an error of their own.
            with suppress(Exception):
                while chunks is not None:
                    await anext(chunks)
