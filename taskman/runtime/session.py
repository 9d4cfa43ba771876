"""The server's end of a worker's connection: messages become the calls that a local worker makes."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from typing import Any

import trio

from ..errors import Closing, ProtocolViolation, StoreError, StoreUnavailable, TaskmanError
from ..model.description import TypeDescription
from ..model.events import WorkerEvent
from ..model.run import DEFAULT_GRACE_S
from ..store.runs import Assignment, Outcome
from ..store.store import Store
from ..store.workers import About
from . import wire
from .dispatcher import Dispatcher
from .frames import Frames, Peer
from .lease import now
from .link import Cancel, Claim
from .link_local import LEASE_MS, LocalLink
from .translation import assigned, no_json, node_of, number_lines, outcome_of, parts_of, progress_of, within_limit

__all__ = ["Session", "replaced"]

HEARTBEAT_S = 5.0
# A worker of which nothing comes for so long is gone, or cannot be reached: its leases run out meanwhile.
SILENCE_S = 25.0
GREETING_S = 10.0
_BOUND_S = 5.0
# Part of a worker's slots at a time: it executes those while the next are being claimed.
_CLAIM_AT_ONCE = 50
_log = logging.getLogger("taskman.session")


def replaced() -> Closing:
    """What the older of two connections of a worker is told."""
    return Closing("replaced", "a newer connection of this worker has taken its place", 1008)


class Session:
    """One worker's connection, from the `welcome` until either side ends it."""

    def __init__(self, store: Store, dispatcher: Dispatcher, hello: wire.Hello, peer: Peer, frames: Frames) -> None:
        self.worker, self.id = hello.id, f"{time.time_ns():x}"
        self.ended = trio.Event()
        self._store, self._hello, self._peer, self._frames = store, hello, peer, frames
        self._node = node_of(hello)
        self._about = About(hello.name or hello.id, hello.version, peer.address, hello.boot or None)
        self._described = [TypeDescription(name, hello.types[name], one.description, one.schema)
                           for name, one in hello.descriptions.items() if name in hello.types]  # fmt: skip
        self._link = LocalLink(
            store, self._node, hello.types, dispatcher=dispatcher, about=self._about, tell=self._notice
        )
        self._dispatcher = dispatcher
        self._outstanding = {one.run: one.attempt for one in hello.held}
        self._since_beat: set[str] = set()
        self._lines: dict[tuple[str, int], tuple[int, int]] = {}
        self._wanted = 0
        self._changed = trio.Event()
        self._claiming: trio.CancelScope | None = None
        self._end: TaskmanError | None = None
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._is_announced = False

    async def run(self, server: str, more: Sequence[wire.Message], enter: Callable[[Session], Awaitable[None]]) -> None:
        """Serve the worker until its connection ends; `more` came along with its `hello`.

        `enter` is awaited when the worker's id is known to be its own: what had this place before has left then.
        Raises: LinkLost, ProtocolViolation, Closing, Conflict, StoreError.
        """
        try:
            with self._scope, self._link.seated():
                await self._welcome(server, enter)
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._until_over, self._feed)
                    nursery.start_soon(self._watch_token)
                    await self._until_over(partial(self._listen, more))
        finally:
            self._nursery = None
            self.ended.set()
        if self._end is not None:
            raise self._end

    def end(self, reason: TaskmanError) -> None:
        """End it, with a reason for the worker."""
        if self._end is None:
            self._end = reason
            self._scope.cancel()

    async def _watch_token(self) -> None:
        await self._peer.ended()
        self.end(Closing("revoked", "the token of this worker is valid no more", 1008))

    async def _until_over(self, part: Callable[[], Awaitable[None]]) -> None:
        try:
            await part()
        except TaskmanError as error:
            self.end(error)

    async def _welcome(self, server: str, enter: Callable[[Session], Awaitable[None]]) -> None:
        held = [(one.run, one.attempt) for one in self._hello.held]
        before = await self._store.workers.enlist(
            self._node, self._hello.types, self._about, owner=self._peer.owner, session=self.id
        )
        await enter(self)
        with suppress(StoreError):  # a full Redis keeps no descriptions, and its workers work on
            await self._store.types.describe(self._described)
        is_same = bool(self._hello.boot) and before is not None and before.boot == self._hello.boot
        replies = await self._link.take_over(held, is_same_process=is_same)
        keep, drop = self._sort(self._hello.held, replies)
        kept = [await self._position(one, is_same_process=is_same) for one in keep]
        answer: list[wire.Message] = [wire.Welcome(HEARTBEAT_S, LEASE_MS / 1000, server, kept, drop)]
        answer += self._cancels(self._hello.held, replies)
        if self._dispatcher.is_draining(self.worker):
            answer.append(wire.Drain())
        await self._send(answer)

    async def _position(self, held: wire.Held, *, is_same_process: bool) -> wire.Kept:
        """With how far its log is stored, for a process that has not sent it itself."""
        if is_same_process:
            return wire.Kept(held.run, held.attempt)
        seq, line = await self._store.logs.position(held.run, held.attempt)
        return wire.Kept(held.run, held.attempt, seq, line)

    def _sort(self, held: Sequence[wire.Held], replies: Sequence[str]) -> tuple[list[wire.Held], list[wire.Held]]:
        dropped = [one for one, reply in zip(held, replies, strict=True) if reply == "drop"]
        for one in dropped:
            self._forget(one.run, one.attempt)
        return [one for one, reply in zip(held, replies, strict=True) if reply != "drop"], dropped

    def _cancels(self, held: Sequence[wire.Held], replies: Sequence[str]) -> list[wire.Message]:
        grace = DEFAULT_GRACE_S
        pairs = zip(held, replies, strict=True)
        return [wire.Cancel(one.run, one.attempt, grace) for one, reply in pairs if reply == "cancel"]

    # What comes from the worker.

    async def _listen(self, more: Sequence[wire.Message]) -> None:
        await self._handle(more)
        while True:
            with trio.move_on_after(SILENCE_S) as silence:
                frame = await self._frames.receive()
            if silence.cancelled_caught:
                raise Closing("silent", f"nothing has come from this worker for {SILENCE_S:g} s", 1002)
            await self._handle(wire.read_from_worker(frame), is_large=len(frame) > wire.FRAME_BYTES)

    async def _handle(self, messages: Sequence[wire.Message], *, is_large: bool = False) -> None:
        """In order; what may go into one call of the store does. A large frame holds one result."""
        self._note_room(messages)
        answers: list[wire.Message] = []
        for kind, group in groupby(messages, key=_call_of):
            same: list[Any] = list(group)
            if kind is wire.Done:
                answers += await self._record(same, is_large=is_large)
            elif kind is wire.Progress:
                answers += await self._note_progress(same)
            elif kind is wire.Log:
                for message in same:
                    answers.append(await self._store_log(message))
            else:
                for message in same:
                    answers += await self._heed(message)
        await self._send(answers)

    def _note_room(self, messages: Sequence[wire.Message]) -> None:
        """What has ended takes no slot any more: the next is claimed while the end is being recorded."""
        for message in messages:
            if isinstance(message, wire.Want):
                self._wanted = message.n
            elif isinstance(message, (wire.Done, wire.Release)):
                self._vacate(message.run, message.attempt)
        self._look_at_room()

    async def _heed(self, message: wire.Message) -> list[wire.Message]:
        if isinstance(message, wire.Beat):
            return await self._renew(message)
        if isinstance(message, wire.Hello):
            raise ProtocolViolation("a connection begins with one 'hello', and has no other")
        if isinstance(message, wire.Bye):
            await self._store.workers.remove(self.worker)
            raise Closing("bye", "goodbye", 1000)
        return []

    async def _renew(self, beat: wire.Beat) -> list[wire.Message]:
        load = beat.load if isinstance(beat.load, int) else len(beat.held)
        try:
            replies = await self._link.extend([(one.run, one.attempt) for one in beat.held])
        except StoreError as error:
            return [wire.Renewed([], [], str(error))]
        try:
            await self._link.report(max(0, min(load, self._node.slots)), self._node.slots)
        except StoreError as error:
            _log.warning("worker %s: the store refused its report: %s", self.worker, error)
        self._forget_unknown({one.run for one in beat.held})
        keep, drop = self._sort(beat.held, replies)
        return [wire.Renewed(keep, drop), *self._cancels(beat.held, replies)]

    def _forget_unknown(self, held: set[str]) -> None:
        """What it was sent before its last beat and does not hold any more takes no slot; its lease runs out."""
        for run_id in [one for one in self._outstanding if one not in held and one not in self._since_beat]:
            del self._outstanding[run_id]
        self._since_beat.clear()
        self._look_at_room()

    async def _record(self, messages: Sequence[wire.Done | wire.Release], *, is_large: bool) -> list[wire.Message]:
        outcomes = [outcome_of(message) for message in messages]
        if is_large:
            outcomes = [within_limit(one) for one in outcomes]
        try:
            states = await self._link.finish(outcomes, followed=self._room() > 0)
        except StoreError as error:
            return [wire.Recorded(one.run, one.attempt, None, str(error)) for one in messages]
        except TypeError:
            raise no_json(outcomes) from None
        for message in messages:
            self._forget(message.run, message.attempt)
        return [wire.Recorded(one.run, one.attempt, state) for one, state in zip(messages, states, strict=True)]

    def _forget(self, run_id: str, attempt: int) -> None:
        self._lines.pop((run_id, attempt), None)
        self._vacate(run_id, attempt)

    def _vacate(self, run_id: str, attempt: int) -> None:
        if self._outstanding.get(run_id) == attempt:
            del self._outstanding[run_id]

    async def _note_progress(self, messages: Sequence[wire.Progress]) -> list[wire.Message]:
        reports = [(one.run, one.attempt, progress_of(one)) for one in messages]
        try:
            kept = await self._store.runs.progress(self.worker, reports)
        except StoreError:
            return []  # the next one says it better
        return [wire.Drop(one.run, one.attempt) for one, is_ours in zip(messages, kept, strict=True) if not is_ours]

    async def _store_log(self, message: wire.Log) -> wire.Message:
        run_id, attempt = key = message.run, message.attempt
        if not message.chunks:
            return wire.Logged(run_id, attempt, 0)
        try:
            if key not in self._lines:
                self._lines[key] = await self._store.logs.position(run_id, attempt)
            chunks, position = number_lines(message.chunks, *self._lines[key])
            is_ours = await self._link.append_log(run_id, attempt, chunks) if chunks else True
        except StoreError as error:
            self._lines.pop(key, None)
            return wire.Logged(run_id, attempt, 0, str(error), full=not isinstance(error, StoreUnavailable))
        if not is_ours:
            self._forget(run_id, attempt)
            return wire.Drop(run_id, attempt)
        self._lines[key] = position
        return wire.Logged(run_id, attempt, message.chunks[-1][0])

    # What goes to the worker.

    def _room(self) -> int:
        return min(self._wanted, self._node.slots - len(self._outstanding), _CLAIM_AT_ONCE)

    def _look_at_room(self) -> None:
        self._changed.set()
        if self._claiming is not None and self._room() <= 0:
            self._claiming.cancel()

    async def _feed(self) -> None:
        """Claim for the worker whenever it has room."""
        while True:
            while self._room() <= 0:
                self._changed = trio.Event()
                await self._changed.wait()
            claim: Claim | None = None
            with trio.CancelScope() as self._claiming:
                claim = await self._link.claim(self._room)
            self._claiming = None
            if claim is not None:
                await self._assign(claim)

    async def _assign(self, claim: Claim) -> None:
        """Send them; what cannot be sent goes back."""
        waiting = list(claim.assignments)
        try:
            runs = [
                (one, encoded)
                for one in claim.assignments
                if (encoded := await self._encoded(one, waiting)) is not None
            ]
            for part in parts_of(runs):
                self._wanted = max(0, self._wanted - len(part))
                for one, _ in part:
                    self._outstanding[one.run_id] = one.attempt
                    self._since_beat.add(one.run_id)
                age_s = now() - claim.began
                await self._deliver([wire.encode_assign([encoded for _, encoded in part], age_s)])
                del waiting[: len(part)]
        finally:
            if waiting:
                with trio.move_on_after(_BOUND_S, shield=True):
                    await self._give_back(waiting)

    async def _encoded(self, one: Assignment, waiting: list[Assignment]) -> bytes | None:
        try:
            encoded = wire.encode_run(assigned(one))
        except (OverflowError, TypeError, ValueError) as error:
            waiting.remove(one)
            message = f"these params cannot be sent to a remote worker: {error}"
            await self._link.finish([Outcome(one.run_id, one.attempt, "fatal", "rejected", None, message)])
            return None
        return encoded

    async def _give_back(self, unsent: Sequence[Assignment]) -> None:
        for one in unsent:
            self._forget(one.run_id, one.attempt)
        try:
            await self._link.finish([Outcome(one.run_id, one.attempt, "released") for one in unsent])
        except StoreError as error:
            _log.warning("%d runs could not be given back, their leases run out: %s", len(unsent), error)

    def _notice(self, notice: Cancel | WorkerEvent | None) -> None:
        if isinstance(notice, Cancel):
            attempt = self._outstanding.get(notice.run_id)
            if attempt is not None:
                grace = 0.0 if notice.force else DEFAULT_GRACE_S
                self._push(wire.Cancel(notice.run_id, attempt, grace, notice.force))
        elif notice is None:
            self._is_announced = True  # the event of our own connection may be among what was missed
        elif notice.change == "connected":
            self._compare(notice)
        elif notice.change in ("drain", "resume"):
            self._push(wire.Drain() if notice.change == "drain" else wire.Resume())

    def _compare(self, event: WorkerEvent) -> None:
        """Connections are announced in order: those that come after our own, through any server, replace it."""
        if event.session == self.id:
            self._is_announced = True
        elif self._is_announced:
            self.end(replaced())

    def _push(self, message: wire.Message) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._until_over, partial(self._send, [message]))

    async def _send(self, messages: Iterable[wire.Message]) -> None:
        await self._deliver(map(wire.encode, messages))

    async def _deliver(self, encoded: Iterable[bytes]) -> None:
        for frame in wire.frames_of(encoded):
            await self._frames.send(frame)


def _call_of(message: wire.Message) -> type[wire.Message]:
    return wire.Done if isinstance(message, wire.Release) else type(message)
