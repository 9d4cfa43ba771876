"""The worker agent: claims runs while it has free slots, executes them, renews their leases, reports them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from ..errors import StoreError
from ..plugins import PluginRegistry
from ..store.runs import Assignment, Outcome
from .attempt import RunningAttempt, Tools
from .journal import Journal
from .lease import Lease, now
from .link import Link
from .outbox import Outbox, note_refusal
from .process import Processes
from .scratch import Scratch
from .services import serve_types
from .survivors import Survivor

__all__ = ["Worker"]

HEARTBEAT_S = 5.0
_CHECK_S = 1.0
_RETRY_S = 0.5
_BATCH = 500
_log = logging.getLogger("taskman.worker")


class Worker:
    """Executes runs from one link with `slots` attempts at a time; `scratch` has their scratch directories.

    What the `journal` knows may outlive it; `survivors` are what has outlived its predecessor: see `pick_up`.
    """

    def __init__(
        self, link: Link, registry: PluginRegistry, slots: int, scratch: Scratch | None = None,
        journal: Journal | None = None, survivors: Sequence[Survivor] = (),
    ) -> None:  # fmt: skip
        self._link, self._registry, self._slots = link, registry, slots
        self._survivors = survivors
        self._processes = Processes(journal)
        self._tools = Tools(self._processes, scratch or Scratch())
        self._held: dict[str, RunningAttempt] = {}
        self._executing: set[RunningAttempt] = set()
        self._ended = trio.lowlevel.ParkingLot()
        self._outbox = Outbox(link, self._settled)
        self._busy = 0
        self._feeding = trio.CancelScope()
        self._draining = self._has_fed = False
        self._slot_freed, self._idle = trio.Event(), trio.Event()

    @property
    def running(self) -> int:
        """How many attempts occupy a slot."""
        return self._busy

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until `drain` has ended it.

        Cancellation: every attempt is cancelled, its processes are ended, and the runs go back by their leases.
        """
        async with trio.open_nursery() as support:
            await support.start(self._processes.run)
            await support.start(serve_types, self._registry, self._link.worker, self._processes)
            support.start_soon(self._heartbeat)
            support.start_soon(self._keep_to_leases)
            support.start_soon(self._follow_cancels)
            async with trio.open_nursery() as work:
                work.start_soon(self._report)
                for survivor in self._survivors:
                    self._go_on(work, survivor)
                task_status.started()
                await self._feed(work)
                self._has_fed = True
                self._look_whether_idle()
            support.cancel_scope.cancel()

    async def drain(self, timeout_s: float) -> None:
        """Take nothing new, give running attempts `timeout_s`, then release them; `run` returns by itself.

        Returns when every outcome has been reported. Cancellation: stops waiting; the drain goes on.
        """
        self._draining = True
        self._feeding.cancel()
        with trio.move_on_after(timeout_s):
            await self._idle.wait()
        for attempt in list(self._held.values()):
            attempt.end("released")
        await self._idle.wait()

    async def _feed(self, work: trio.Nursery) -> None:
        with self._feeding:
            while not self._draining:
                while self._busy >= self._slots or self._outbox.is_full:
                    self._slot_freed = trio.Event()
                    await self._slot_freed.wait()
                claim = await self._link.claim(self._room)
                for assignment in claim.assignments:
                    self._start(work, assignment, claim.began)

    def _room(self) -> int:
        """Part of the slots at a time: it executes those while the next are being claimed."""
        return min(self._slots - self._busy, max(1, self._slots // 2))

    def _start(self, work: trio.Nursery, assignment: Assignment, began: float) -> None:
        before = self._held.get(assignment.run_id)
        if before is not None and before.number == assignment.attempt and not before.is_dropped:
            before.lease.renew(began)
            return  # a Redis that lost its last second has forgotten our claim, which is renewed by this one
        lease = Lease(began, assignment.spec.lost_grace_s)
        attempt = RunningAttempt(assignment, lease, self._link, self._registry, self._tools, work)
        if self._draining:  # its claim was under way when that began
            attempt.end("released")
        self._hold(work, attempt, before)

    def _go_on(self, work: trio.Nursery, survivor: Survivor) -> None:
        assignment, lease = survivor.entry.assignment, survivor.lease
        attempt = RunningAttempt(assignment, lease, self._link, self._registry, self._tools, work)
        attempt.go_on_with(survivor, self._link)
        self._hold(work, attempt, None)

    def _hold(self, work: trio.Nursery, attempt: RunningAttempt, before: RunningAttempt | None) -> None:
        self._held[attempt.run_id] = attempt
        self._executing.add(attempt)
        self._busy += 1
        work.start_soon(self._execute, attempt, before)

    async def _execute(self, attempt: RunningAttempt, before: RunningAttempt | None) -> None:
        try:
            if before is not None:
                await self._end_at_once(before)
            outcome = await attempt.run()
        finally:
            self._busy -= 1
            self._slot_freed.set()
            self._executing.discard(attempt)
            self._ended.unpark_all()
        if attempt.ended_by == "unrenewed" and outcome.outcome == "lost":
            _log.warning("run %s: attempt %d was ended, having had no renewal for %d s",
                         attempt.run_id, attempt.number, attempt.lease.silence_s)  # fmt: skip
        if attempt.is_dropped:
            self._let_go(attempt)
        else:
            self._outbox.put(outcome)

    async def _end_at_once(self, attempt: RunningAttempt) -> None:
        """End an attempt whose run has been given to somebody else, and wait until nothing of it is left."""
        attempt.end("dropped")
        await self._processes.kill(attempt.run_id)
        while attempt in self._executing:
            await self._ended.park()

    def _let_go(self, attempt: RunningAttempt) -> None:
        if self._held.get(attempt.run_id) is attempt:
            del self._held[attempt.run_id]
        self._look_whether_idle()

    async def _report(self) -> None:
        """Deliver outcomes until drained."""
        async with trio.open_nursery() as delivery:
            delivery.start_soon(self._outbox.run)
            await self._idle.wait()
            delivery.cancel_scope.cancel()

    def _settled(self, outcome: Outcome, state: str) -> None:
        self._slot_freed.set()
        if state == "stale":
            _log.warning("run %s: attempt %d had been given up on", outcome.run_id, outcome.attempt)
        held = self._held.get(outcome.run_id)
        if held is not None and held.number == outcome.attempt:
            self._let_go(held)

    def _look_whether_idle(self) -> None:
        if self._has_fed and not self._held:
            self._idle.set()

    async def _heartbeat(self) -> None:
        """Renew every lease each five seconds."""
        while True:
            began = trio.current_time()
            try:
                await self._renew()
            except StoreError as error:
                note_refusal(error)
                await trio.sleep(_RETRY_S)
                continue
            await self._stand()
            await trio.sleep_until(began + HEARTBEAT_S)

    async def _stand(self) -> None:
        """Say how the worker stands. A full Redis may refuse that: the leases are renewed all the same."""
        try:
            await self._link.report(self._busy, self._slots)
        except StoreError as error:
            note_refusal(error)

    async def _renew(self) -> None:
        held = list(self._held.values())
        for first in range(0, len(held), _BATCH):
            part, began = held[first : first + _BATCH], now()
            replies = await self._link.extend([(attempt.run_id, attempt.number) for attempt in part])
            for attempt, reply in zip(part, replies, strict=True):
                if reply != "drop":
                    attempt.lease.renew(began)
                await self._obey(attempt, reply)

    async def _obey(self, attempt: RunningAttempt, reply: str) -> None:
        if reply == "cancel":
            attempt.end("cancelled")
        elif reply == "drop" and self._may_drop(attempt):
            _log.warning("run %s: the lease of attempt %d is gone, stopping it", attempt.run_id, attempt.number)
            attempt.end("dropped")
            await self._processes.kill(attempt.run_id)  # somebody else may be executing it already

    def _may_drop(self, attempt: RunningAttempt) -> bool:
        """Not when its outcome is on its way: the answer to `extend` may then be about a finished run."""
        is_ours = self._held.get(attempt.run_id) is attempt and not attempt.is_dropped
        return is_ours and attempt.run_id not in self._outbox

    async def _keep_to_leases(self) -> None:
        """Stop what may soon be given away. Its shims do the same by themselves, and kill what is then still there."""
        while True:
            await trio.sleep(_CHECK_S)
            for attempt in list(self._executing):
                if attempt.ended_by is None and attempt.lease.is_ending:
                    attempt.end("unrenewed")

    async def _follow_cancels(self) -> None:
        async for cancel in self._link.cancels():
            if cancel is None:
                try:
                    await self._renew()
                except StoreError as error:
                    note_refusal(error)
                    continue  # the next heartbeat asks again
                await self._stand()
            elif cancel.run_id in self._held:
                self._held[cancel.run_id].end("cancelled")
                if cancel.force:
                    await self._processes.kill(cancel.run_id)
