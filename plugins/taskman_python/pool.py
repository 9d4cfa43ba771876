"""Warm children of one worker: taken for a call, kept for the next one, replaced when they are worn."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field

import trio

from taskman import TaskContext, TaskFailed, WorkerContext

from .frames import Message
from .warm import Child, ChildGone

__all__ = ["Limits", "Pool"]

START_AT_ONCE = KEEP = os.cpu_count() or 1
# Beyond those, another child is started only when a call has waited so long: short calls are better served by few.
PATIENCE_S = 0.05
IDLE_S = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """When a child is replaced: after so many calls, or when its memory has grown so much since its first call."""

    calls: int = 50_000
    growth_bytes: int = 256 * 1024 * 1024


@dataclass(eq=False, slots=True)
class _Waiter:
    """A call that waits for a child."""

    since: float = field(default_factory=trio.current_time)
    served: trio.Event = field(default_factory=trio.Event)
    child: Child | None = None
    error: Exception | None = None


class Pool:
    """As many children as there are calls at a time; those used last are used next."""

    def __init__(self, worker: WorkerContext, setup: Message, limits: Limits | None = None) -> None:
        """`setup` is the first message to each child."""
        self._worker, self._setup, self._limits = worker, setup, limits or Limits()
        self._nursery: trio.Nursery | None = None
        self._idle: list[Child] = []
        self._waiting: deque[_Waiter] = deque()
        self._starting, self._alive, self._grown_at = 0, 0, 0.0
        self._wanted = trio.lowlevel.ParkingLot()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the children until cancelled.

        Cancellation: the children get SIGTERM, after two seconds SIGKILL; Cancelled is raised when they are gone.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._grow)
            task_status.started()
            try:
                await self._retire_idle()
            finally:
                self._nursery = None
                while self._waiting:
                    self._waiting.popleft().served.set()

    async def call(self, context: TaskContext, message: Message) -> Message:
        """Have a function called, and return the verdict on it when all its output is in the log.

        What the call leaves behind, processes or threads, is ended first.
        Cancellation: the function gets SystemExit, and its whole process tree after the run's grace SIGKILL;
        Cancelled is raised when no process is left.
        Raises: TaskFailed when the child died of the call; OSError when no child can be started; ShimLost.
        """
        while True:
            child = await self._acquire()
            try:
                verdict = await child.call(context, message)
            except ChildGone:
                continue  # it had died while idle, and nothing was called
            finally:
                self._release(child)
            return verdict

    async def _acquire(self) -> Child:
        if self._nursery is None:
            raise TaskFailed("error", "this worker has no processes for functions: its log says why")
        while self._idle:
            child = self._idle.pop()
            if not child.ended.is_set():
                return child
        waiter = _Waiter()
        self._waiting.append(waiter)
        self._wanted.unpark_all()
        try:
            await waiter.served.wait()
        except BaseException:
            if waiter.child is not None:
                self._release(waiter.child)
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            raise
        if waiter.child is None:
            raise waiter.error or TaskFailed("error", "no process for the function could be started")
        return waiter.child

    async def _grow(self) -> None:
        """Start children while calls wait, a few at a time."""
        while True:
            if self._nursery is None or self._starting >= min(len(self._waiting), START_AT_ONCE):
                await self._wanted.park()
            elif self._alive >= KEEP and trio.current_time() < (start_at := self._start_next_at()):
                await trio.sleep_until(start_at)
            else:
                self._starting += 1
                self._alive += 1
                self._nursery.start_soon(self._start, self._nursery)

    def _start_next_at(self) -> float:
        return max(self._waiting[0].since, self._grown_at) + PATIENCE_S

    async def _start(self, nursery: trio.Nursery) -> None:
        child = Child(self._worker, self._setup)
        await nursery.start(self._look_after, child)
        self._starting -= 1
        self._grown_at = trio.current_time()
        if child.failure is None:
            self._hand_out(child)
        elif self._waiting:
            waiter = self._waiting.popleft()
            waiter.error = child.failure
            waiter.served.set()
        self._wanted.unpark_all()

    async def _look_after(self, child: Child, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            await child.run(task_status=task_status)
        finally:
            self._alive -= 1
            self._wanted.unpark_all()

    def _hand_out(self, child: Child) -> None:
        if self._waiting:
            waiter = self._waiting.popleft()
            waiter.child = child
            waiter.served.set()
        else:
            child.idle_since = trio.current_time()
            self._idle.append(child)

    def _release(self, child: Child) -> None:
        if child.ended.is_set() or child.is_ending:
            return
        if child.calls >= self._limits.calls or child.growth_bytes >= self._limits.growth_bytes:
            self._retire(child)
        else:
            self._hand_out(child)

    def _retire(self, child: Child) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(child.retire)

    async def _retire_idle(self) -> None:
        while True:
            await trio.sleep(IDLE_S / 4)
            while len(self._idle) > KEEP and self._idle[0].idle_since <= trio.current_time() - IDLE_S:
                self._retire(self._idle.pop(0))
