"""Process trees of a worker: starts them through shims, streams their output, and ends them to the last process.

A tree belongs to a shim (`shim.py`), not to the worker: so nothing can leave it, and it dies even when the worker
is killed. A shim serves one run at a time, and is used again once its tree is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from ..errors import ShimLost
from ..tasktypes import ProcessResult
from . import shim as shim_program
from .pipes import Pipes, Reader

__all__ = ["ProcessSpec", "Processes"]

Output = Callable[[str, bytes], Awaitable[None]]

SIGNAL_NAMES = {number.value: number.name for number in signal.Signals}
STOP_MARGIN_S = 5.0  # beyond the grace: to kill, to reap, and to pass on the last output
SHIM_ANSWER_S, SHIM_EXIT_S = 30.0, 5.0
IDLE_SHIMS, IDLE_S = 4, 60.0  # so many are kept for ever, the others so long
SWEEP_ROUNDS, SWEEP_PAUSE_S = 100, 0.02


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to start. `env` is the complete environment; TASKMAN_RUN_ID and TASKMAN_ATTEMPT in it mark the tree."""

    argv: Sequence[str]
    cwd: str | Path | None
    env: Mapping[str, str]
    stdin: bytes | None
    user: str | None
    grace_s: float


class Processes:
    """The process trees of one worker, and the shims that hold them."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None
        self._shims: set[_Shim] = set()
        self._idle: list[_Shim] = []  # the one used last is at the end, and used next
        self._trees: set[_Tree] = set()
        self._changed = trio.lowlevel.ParkingLot()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the shims until cancelled. `execute` works from `task_status.started()` on.

        Cancellation: every tree gets SIGTERM, and SIGKILL after its grace; Cancelled is raised when all trees are
        gone and the shims have exited, at the latest ten seconds after the longest grace.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await self._retire_idle_shims()
            finally:
                self._nursery = None
                with trio.CancelScope(shield=True):
                    await self._end()

    async def execute(self, spec: ProcessSpec, output: Output) -> ProcessResult:
        """Run a process, passing on its output as it comes, and return when its whole tree is gone.

        `output(stream, data)` gets up to 64 KiB of "out" or "err", exactly as written. Until it returns, that
        stream is not read, and the process has to wait. What the main process leaves behind gets SIGTERM, and
        SIGKILL after two seconds, or the grace where that is shorter.
        Units: `max_rss_bytes` is at least that of a shim, 10 MiB or so (the kernel counts from before exec).
        Cancellation: the tree gets SIGTERM, and SIGKILL after the grace; output is passed on meanwhile. Cancelled
        is raised when no process is left (or, if one hangs in the kernel, five seconds after the grace).
        Raises: OSError when the program cannot be started; ValueError for what no process can be given; ShimLost;
        and what `output` raised, once the tree is ended as if cancelled.
        """
        with contextlib.ExitStack() as ours:
            pipes = Pipes(ours, with_stdin=spec.stdin is not None)
            with pipes.theirs:
                shim = await self._start_tree(spec, pipes.handed)
            tree = _Tree(spec, shim, pipes, output)
            self._trees.add(tree)
            try:
                return await tree.follow()
            finally:
                self._trees.discard(tree)
                self._release(shim, reusable=not shim.busy)

    async def kill(self, run_id: str) -> None:
        """SIGKILL for every tree of that run, without a grace; `execute` returns when they are gone.

        Cancellation: the signal is sent all the same.
        """
        for tree in list(self._trees):
            if tree.spec.env.get("TASKMAN_RUN_ID") == run_id:
                await tree.kill()

    async def _start_tree(self, spec: ProcessSpec, fds: list[int]) -> _Shim:
        request = _spawn_request(spec)
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            shim = self._idle.pop() if self._idle else await self._start_shim()
            try:
                with trio.CancelScope(shield=True):  # half a request would leave the shim useless
                    if await shim.spawn(request, fds):
                        return shim
            except BaseException:
                self._release(shim, reusable=not shim.busy)
                raise
            self._release(shim, reusable=False)

    async def _start_shim(self) -> _Shim:
        if self._nursery is None:
            raise RuntimeError("Processes.run is not running")
        shim = await _Shim.start()
        if self._nursery is None:  # ended in the meantime
            shim.close()
            with trio.CancelScope(shield=True):
                await shim.process.wait()
            raise RuntimeError("Processes.run has ended")
        self._shims.add(shim)
        self._nursery.start_soon(self._look_after, shim)
        return shim

    async def _look_after(self, shim: _Shim) -> None:
        with trio.CancelScope(shield=True):  # _end_shims makes it exit
            await shim.process.wait()
        self._shims.discard(shim)
        if shim in self._idle:
            self._idle.remove(shim)
            shim.close()
        self._changed.unpark_all()

    def _release(self, shim: _Shim, *, reusable: bool) -> None:
        if reusable and self._nursery is not None:
            shim.idle_since = trio.current_time()
            self._idle.append(shim)
        else:
            shim.close()
        self._changed.unpark_all()

    async def _retire_idle_shims(self) -> None:
        while True:
            await trio.sleep(IDLE_S / 4)
            while len(self._idle) > IDLE_SHIMS and self._idle[0].idle_since <= trio.current_time() - IDLE_S:
                self._idle.pop(0).close()

    async def _end(self) -> None:
        for tree in list(self._trees):
            await tree.stop()
        longest_s = max((tree.spec.grace_s for tree in self._trees), default=0.0)
        await self._wait_until_empty(self._trees, longest_s + STOP_MARGIN_S)
        for shim in self._shims:
            shim.close()
        await self._wait_until_empty(self._shims, SHIM_EXIT_S)
        for shim in self._shims:
            shim.process.kill()

    async def _wait_until_empty(self, members: set[_Tree] | set[_Shim], at_most_s: float) -> None:
        with trio.move_on_after(at_most_s):
            while members:
                await self._changed.park()


class _Shim:
    """A shim process, and the worker's end of its lifeline."""

    def __init__(self, process: trio.Process, lifeline: socket.socket) -> None:
        self.process, self._lifeline = process, lifeline
        self.busy = False  # it may have a tree
        self.idle_since = -1.0  # never
        self._frames = shim_program.Frames()
        self._received: list[list[bytes]] = []

    @classmethod
    async def start(cls) -> _Shim:
        """Start a shim. Raises: OSError when the system has no room for another process."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        argv = [sys.executable, "-I", "-S", shim_program.__file__, str(theirs.fileno())]
        null = subprocess.DEVNULL
        with theirs, contextlib.ExitStack() as on_error:
            on_error.enter_context(ours)
            process = await trio.lowlevel.open_process(
                argv, pass_fds=[theirs.fileno()], stdin=null, stdout=null, start_new_session=True
            )
            on_error.pop_all()
        return cls(process, ours)

    async def spawn(self, request: bytes, fds: list[int]) -> bool:
        """Have a process started, else OSError. False: this idle shim had died unnoticed, take another."""
        self.busy = True
        with trio.move_on_after(SHIM_ANSWER_S):
            try:
                await self.send(request, fds)
            except ShimLost:
                if self.idle_since < 0:
                    raise  # a fresh one: the next would fare no better
                return False
            words = await self.receive()
            if words[0] == b"error":
                self.busy = False
                raise OSError(int(words[1]), os.fsdecode(words[3]), os.fsdecode(words[2]))
            return True
        raise ShimLost(f"The shim (process {self.process.pid}) does not answer.")

    async def receive(self) -> list[bytes]:
        """Wait for the shim's next message. Raises: ShimLost."""
        while not self._received:
            data = b""
            with contextlib.suppress(ConnectionResetError, trio.ClosedResourceError):
                await trio.lowlevel.wait_readable(self._lifeline)
                data = self._lifeline.recv(4096)
            if not data:
                raise ShimLost(f"The shim (process {self.process.pid}) died before its process tree did.")
            self._received += self._frames.feed(data)
        return self._received.pop(0)

    async def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send a frame, and fds with it. Raises: ShimLost."""
        while data:
            try:
                sent = socket.send_fds(self._lifeline, [data], fds)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._lifeline)
            except (OSError, trio.ClosedResourceError) as error:
                raise ShimLost(f"The shim (process {self.process.pid}) is gone.") from error
            else:
                data, fds = data[sent:], ()

    def close(self) -> None:
        """End the lifeline: the shim kills what is left of its tree, and exits."""
        if self._lifeline.fileno() >= 0:
            trio.lowlevel.notify_closing(self._lifeline)
            self._lifeline.close()


class _Tree:
    """One process tree, from its start until it is gone and its output is passed on."""

    def __init__(self, spec: ProcessSpec, shim: _Shim, pipes: Pipes, output: Output) -> None:
        self.spec, self._shim, self._pipes, self._output = spec, shim, pipes, output
        self._gone = False
        self._result: ProcessResult | None = None
        self._failure: Exception | None = None
        self._patience, self._feeding = trio.CancelScope(shield=True), trio.CancelScope()

    async def follow(self) -> ProcessResult:
        """Pass on the output until the tree is gone; when cancelled, stop the tree and still do so."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_when_cancelled)
            with self._patience:
                await self._stream()
            nursery.cancel_scope.cancel()
        if self._failure or not self._result:
            raise self._failure or ShimLost("The process tree could not be ended in time.")
        return self._result

    async def kill(self) -> None:
        """Have the tree killed at once, also when it is being stopped already."""
        if not self._gone:
            with trio.move_on_after(STOP_MARGIN_S, shield=True), contextlib.suppress(ShimLost):
                await self._shim.send(shim_program.pack([b"kill"]))

    async def stop(self) -> None:
        """Have the tree ended within its grace, and `follow` return soon after."""
        grace_s = 0.0 if self._gone else self.spec.grace_s
        self._patience.deadline = min(self._patience.deadline, trio.current_time() + grace_s + STOP_MARGIN_S)
        if not self._gone:
            with trio.move_on_after(STOP_MARGIN_S, shield=True), contextlib.suppress(ShimLost):
                await self._shim.send(shim_program.pack([b"stop", b"%f" % grace_s]))

    async def _stop_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            await self.stop()

    async def _stream(self) -> None:
        async with trio.open_nursery() as nursery:
            for reader in self._pipes.readers:
                nursery.start_soon(self._pass_on, reader)
            if self._pipes.stdin is not None:
                nursery.start_soon(self._feed, self._pipes.stdin, memoryview(self.spec.stdin or b""))
            await self._wait_until_gone()
            self._gone = True
            self._feeding.cancel()
            for reader in self._pipes.readers:
                reader.finish()

    async def _wait_until_gone(self) -> None:
        try:
            _, status, cpu_s, max_rss_bytes = await self._shim.receive()
            self._shim.busy = False
            code = int(status)
            exit_code, name = (code, None) if code >= 0 else (None, SIGNAL_NAMES.get(-code, f"SIG{-code}"))
            self._result = ProcessResult(exit_code, name, int(max_rss_bytes), float(cpu_s))
        except ShimLost as error:
            self._failure = error
            await trio.to_thread.run_sync(_sweep, self.spec.env)

    async def _pass_on(self, reader: Reader) -> None:
        while data := await reader.read():
            try:
                if not self._failure:
                    await self._output(reader.name, data)
            except Exception as error:
                self._failure = error
                await self.stop()
            await trio.lowlevel.checkpoint()  # the callback need not be one

    async def _feed(self, fd: int, rest: memoryview) -> None:
        with self._pipes.feeding, self._feeding, contextlib.suppress(BrokenPipeError):  # it may not want all
            while rest:
                try:
                    rest = rest[os.write(fd, rest) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(fd)


def _spawn_request(spec: ProcessSpec) -> bytes:
    if not spec.argv:
        raise ValueError("argv is empty: there is no program to start")
    if any(not name or "=" in name for name in spec.env):
        raise ValueError("the name of an environment variable is empty or contains '='")
    head = ("spawn", f"{spec.grace_s:f}", os.path.abspath(spec.cwd or "."), spec.user or "", str(len(spec.argv)))
    env = (f"{name}={value}" for name, value in spec.env.items())
    return shim_program.pack(os.fsencode(word) for word in (*head, *spec.argv, *env))


def _sweep(env: Mapping[str, str]) -> None:
    """Kill what carries the run's marks in its environment, or descends from such: the tree of a killed shim.

    Not found is what has cleared its environment and lost its parent as well.
    """
    marks = {os.fsencode(f"{name}={env[name]}") for name in ("TASKMAN_RUN_ID", "TASKMAN_ATTEMPT") if name in env}
    for _ in range(SWEEP_ROUNDS if "TASKMAN_RUN_ID" in env else 0):
        table = shim_program.processes()
        marked = {process.pid for process in table if _has_marks(process.pid, marks)}
        if not marked:
            return
        for pid in marked | {process.pid for process in shim_program.descendants(marked, table)}:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(SWEEP_PAUSE_S)


def _has_marks(pid: int, marks: set[bytes]) -> bool:
    with contextlib.suppress(OSError):
        return marks <= set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    return False
