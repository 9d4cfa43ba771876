"""The worker's end of a child: starts it, talks to it, reads its output, and sees to its end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
import termios
from pathlib import Path

import trio

from taskman import HeldProcess, ProcessResult, TaskContext, TaskFailed, WorkerContext

from .frames import Frames, Message, pack

__all__ = ["Child", "ChildGone"]

PROGRAM = Path(__file__).with_name("child.py")
READ_SIZE = 65_536
START_S, RETIRE_S, DRAIN_S = 30.0, 5.0, 5.0
STOP_S = 2.0  # a child that is told to end, and what it leaves behind, gets SIGTERM, and so much later SIGKILL
STRAY_BYTES = 2000


class ChildGone(Exception):
    """The child had died before it could be asked anything."""


class Child:
    """One warm child. `run` is its life; `call` may be used once that has started, by one caller at a time."""

    def __init__(self, worker: WorkerContext, setup: Message) -> None:
        self._worker, self._setup = worker, setup
        self._channel, self._theirs = socket.socketpair()
        self._frames = Frames()
        self._received: list[Message] = []
        self._pipes: list[tuple[str, int]] = []
        self._context: TaskContext | None = None
        self._stray = b""  # what it wrote outside of any call
        self._process: HeldProcess | None = None
        self._result: ProcessResult | None = None
        self._gone = trio.Event()
        self._first_rss = 0
        self.failure: Exception | None = None
        self.ended = trio.Event()
        self.is_ending = False
        self.idle_since = 0.0
        self.calls = self.growth_bytes = 0

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Live until the process tree is gone. Started means ready; or else `failure` says what went wrong.

        Cancellation: the tree is ended.
        """
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            stdio = self._open(ours, theirs)
            try:
                async with trio.open_nursery() as nursery:
                    for stream, fd in self._pipes:
                        nursery.start_soon(self._pass_on, stream, fd)
                    await self._start(nursery, stdio, theirs)
                    task_status.started()
                    await self._gone.wait()
                    nursery.cancel_scope.cancel()
            finally:
                self.is_ending = True
                with trio.move_on_after(DRAIN_S, shield=True):
                    await self._drain()
                trio.lowlevel.notify_closing(self._channel)
                self.ended.set()

    async def call(self, context: TaskContext, message: Message) -> Message:
        """Have a function called; see Pool.call. Raises: ChildGone, TaskFailed, ShimLost."""
        assert self._process is not None
        self.calls += 1
        self._context = context
        with self._process.working_for(context):
            try:
                verdict = await self._ask(context, message)
            except BaseException:
                self.is_ending = True
                with trio.CancelScope(shield=True):
                    await self._process.stop(context.grace_s)
                    await self.ended.wait()
                raise
            finally:
                self._context = None
        if verdict is None:
            raise self.failure or self._death()
        self._note_memory(verdict["rss"])
        return verdict

    async def _ask(self, context: TaskContext, message: Message) -> Message | None:
        await self._send(message)
        verdict = await self._converse(context)
        if verdict is None or verdict["last"]:
            self.is_ending = True
            await self.ended.wait()
        else:
            await self._drain()
        return verdict

    async def retire(self) -> None:
        """Let it end as programs do, and make it end if it does not."""
        self.is_ending = True
        self._channel.shutdown(socket.SHUT_WR)
        with trio.move_on_after(RETIRE_S):
            await self.ended.wait()
        if self._process is not None and not self.ended.is_set():
            await self._process.stop(STOP_S)

    def _open(self, ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> list[int]:
        ours.enter_context(self._channel)
        theirs.enter_context(self._theirs)
        self._channel.setblocking(False)
        handed = [self._theirs.fileno()]
        for stream in ("out", "err"):
            read_end, write_end = os.pipe()
            ours.callback(os.close, read_end)
            theirs.callback(os.close, write_end)
            os.set_blocking(read_end, False)
            self._pipes.append((stream, read_end))
            handed.append(write_end)
        return handed

    async def _start(self, nursery: trio.Nursery, stdio: list[int], theirs: contextlib.ExitStack) -> None:
        try:
            with theirs:
                self._process = await nursery.start(self._hold, stdio)
            await self._get_ready()
        except Exception as error:
            self.failure = error
            if self._process is not None:
                await self._process.kill()
            else:
                self._gone.set()

    async def _hold(self, stdio: list[int], *, task_status: trio.TaskStatus[HeldProcess]) -> None:
        argv = [sys.executable, "-P", str(PROGRAM)]
        try:
            self._result = await self._worker.hold_process(argv, stdio, grace_s=STOP_S, task_status=task_status)
        except Exception as error:
            if self._process is None:
                raise
            self.failure = error
        finally:
            self._gone.set()

    async def _get_ready(self) -> None:
        with trio.move_on_after(START_S):
            await self._send(self._setup)
            if await self._receive():
                return
        raise TaskFailed("error", f"a process for functions did not start: {self._stray.decode(errors='replace')}")

    async def _converse(self, context: TaskContext) -> Message | None:
        """The verdict; None when the child died before it gave one."""
        while (message := await self._receive()) is not None:
            if message["kind"] == "log":
                context.log(message["text"], message["stream"])
            elif message["kind"] == "progress":
                await _report(context, message)
            else:
                return message
        return None

    async def _send(self, message: Message) -> None:
        rest = memoryview(pack(message))
        while rest:
            try:
                rest = rest[self._channel.send(rest) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._channel)
            except (BrokenPipeError, ConnectionResetError):
                raise ChildGone from None

    async def _receive(self) -> Message | None:
        while not self._received:
            await trio.lowlevel.wait_readable(self._channel)
            try:
                data = self._channel.recv(READ_SIZE)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            try:
                self._received += self._frames.feed(data)
            except ValueError:
                raise TaskFailed("error", "something else than Taskman wrote into the channel to the worker") from None
        return self._received.pop(0)

    async def _pass_on(self, stream: str, fd: int) -> None:
        data: bytes | None = None
        while data != b"":
            await trio.lowlevel.wait_readable(fd)
            try:
                data = os.read(fd, READ_SIZE)
            except BlockingIOError:
                continue  # the verdict came first, and `_drain` with it
            await self._take(stream, data)

    async def _drain(self) -> None:
        """Pass on what is in the pipes now."""
        for stream, fd in self._pipes:
            left = int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)
            while left > 0 and (data := os.read(fd, min(left, READ_SIZE))):
                left -= len(data)
                await self._take(stream, data)

    async def _take(self, stream: str, data: bytes) -> None:
        if self._context is not None:
            await self._context.output(stream, data)
        else:
            self._stray = (self._stray + data)[-STRAY_BYTES:]

    def _death(self) -> TaskFailed:
        result = self._result
        if result is None:
            return TaskFailed("error", "the process of the function was lost")
        if result.signal is not None:
            return TaskFailed("signal", f"its process was ended by {result.signal} before the function returned")
        return TaskFailed("exit", f"its process ended with exit code {result.exit_code} before the function returned")

    def _note_memory(self, rss: int) -> None:
        self._first_rss = self._first_rss or rss
        self.growth_bytes = rss - self._first_rss


async def _report(context: TaskContext, message: Message) -> None:
    report = getattr(context, "progress", None)
    if report is not None:
        try:
            await report(message["done"], message["total"], message["message"])
        except (TypeError, ValueError) as error:
            context.log(f"progress: {error}", "err")
