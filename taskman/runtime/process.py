"""Process trees of a worker: starts them through shims, streams their output, and ends them to the last process.

A tree belongs to a shim (`shim/`), not to the worker: so nothing can leave it, and it dies even when the worker
is killed, or waits for the next one. A shim serves one run at a time, and is used again once its tree is gone.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

import trio

from ..errors import LeaseEnded, ShimLost
from ..tasktypes import HeldProcess, ProcessResult, TaskContext
from .journal import Entry, Journal
from .keeping import Keeping
from .lease import Lease
from .lifeline import ShimProcess
from .pipes import Pipes, Reader
from .shim.frames import pack
from .survivors import Survivor
from .sweep import sweep

__all__ = ["ProcessSpec", "Processes"]

Output = Callable[[str, bytes], Awaitable[None]]

SIGNAL_NAMES = {number.value: number.name for number in signal.Signals}
STOP_MARGIN_S = 5.0  # beyond the grace: to kill, to reap, and to pass on the last output
SHIM_EXIT_S = 5.0
SHORT_S = 0.02  # of output that comes sooner, nobody minds that it is read so much later
IDLE_SHIMS, IDLE_S = 4, 60.0  # so many are kept for ever, the others so long
# A held tree may be told of leases so much too short: then many calls a second need few messages.
LEASE_STEP_S = 1.0
# So often trees that hold no run's lease any more are told so: sooner than any lease could end.
FORGET_S = 4.0
_ENDLESS = Lease(math.inf, 0.0)


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to start. `env` comes on top of the worker's; in it a run's id and attempt, or TASKMAN_TREE, mark a tree."""

    argv: Sequence[str]
    cwd: str | Path | None
    env: Mapping[str, str]
    stdin: bytes | None
    user: str | None
    grace_s: float


class Processes:
    """The process trees of one worker, and the shims that hold them. Those that `journal` knows may outlive it."""

    def __init__(self, journal: Journal | None = None) -> None:
        self._nursery: trio.Nursery | None = None
        self._shims: dict[ShimProcess, trio.Process] = {}
        self._idle: list[ShimProcess] = []  # the one used last is at the end, and used next
        self._trees: set[_Tree] = set()
        self._keeping = None if journal is None else Keeping(journal, self._trees)
        self._changed = trio.lowlevel.ParkingLot()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the shims until cancelled. `execute` works from `task_status.started()` on.

        Cancellation: every tree gets SIGTERM, and SIGKILL after its grace; Cancelled is raised when all trees are
        gone and the shims have exited, at the latest ten seconds after the longest grace.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._forget_leases)
            if self._keeping is not None:
                nursery.start_soon(self._keeping.run)
            task_status.started()
            try:
                await self._retire_idle_shims()
            finally:
                self._nursery = None
                with trio.CancelScope(shield=True):
                    await self._end()

    async def execute(
        self,
        spec: ProcessSpec,
        output: Output,
        lease: Lease | None = None,
        describe: Callable[[], Entry] | None = None,
    ) -> ProcessResult:
        """Run a process, passing on its output as it comes, and return when its whole tree is gone.

        `output(stream, data)` gets up to 64 KiB of "out" or "err", exactly as written. Until it returns, that
        stream is not read, and the process has to wait. What the main process leaves behind gets SIGTERM, and
        SIGKILL after two seconds, or the grace where that is shorter.
        When `lease` comes to its end, the shim ends the tree, also while this whole process stands still.
        A tree that somebody can `describe` is put into the journal once it has lasted for half a second.
        Units: `max_rss_bytes` is at least that of a shim, 10 MiB or so (the kernel counts from before exec).
        Cancellation: the tree gets SIGTERM, and SIGKILL after the grace; output is passed on meanwhile. Cancelled
        is raised when no process is left (or, if one hangs in the kernel, five seconds after the grace).
        Raises: OSError when the program cannot be started; ValueError for what no process can be given; LeaseEnded;
        ShimLost; and what `output` raised, once the tree is ended as if cancelled.
        """
        lease = lease or _ENDLESS
        pipes = Pipes(with_stdin=spec.stdin is not None)
        try:
            told = lease.stop_at
            shim = await self._start_tree(_spawn_request(spec, lease), pipes.handed)
            pipes.close_handed()
            tree = _Tree(spec, shim, pipes, output)
            tree.description = describe
            if lease.stop_at > told:
                tree.tell(lease)
            with lease.followed_by(tree.tell):
                return await self._follow(tree, shim)
        finally:
            pipes.close_handed()
            pipes.close()

    async def go_on(self, survivor: Survivor, spec: ProcessSpec, output: Output, lease: Lease) -> ProcessResult:
        """Go on with a tree that has outlived its worker, as if `execute` had started it with `spec`."""
        tree = _Tree(spec, survivor.shim, Pipes(outputs=survivor.outputs), output)
        tree.label = survivor.entry.label
        tree.tell(lease)
        try:
            with lease.followed_by(tree.tell):
                return await self._follow(tree, survivor.shim)
        finally:
            survivor.close()

    async def hold(
        self,
        spec: ProcessSpec,
        stdio: Sequence[int],
        *,
        task_status: trio.TaskStatus[HeldProcess] = trio.TASK_STATUS_IGNORED,
    ) -> ProcessResult:
        """Run a process with files of the caller's own, until its whole tree is gone; see WorkerContext."""
        stdin, out, err = stdio
        shim = await self._start_tree(_spawn_request(spec, _ENDLESS), [out, err, stdin])
        tree = _Tree(spec, shim)
        task_status.started(tree)
        return await self._follow(tree, shim)

    async def _follow(self, tree: _Tree, shim: ShimProcess) -> ProcessResult:
        self._trees.add(tree)
        try:
            return await tree.follow()
        finally:
            self._trees.discard(tree)
            if self._keeping is not None and tree.label is not None:
                self._keeping.forget(tree.label)
            self._release(shim, reusable=not shim.busy and shim in self._shims)

    async def kill(self, run_id: str) -> None:
        """SIGKILL for every tree of that run, without a grace; `execute` returns when they are gone.

        Cancellation: the signal is sent all the same.
        """
        for tree in list(self._trees):
            if tree.run_id == run_id:
                await tree.kill()

    async def _start_tree(self, request: bytes, fds: list[int]) -> ShimProcess:
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

    async def _start_shim(self) -> ShimProcess:
        if self._nursery is None:
            raise RuntimeError("Processes.run is not running")
        shim, process = await ShimProcess.start()
        if self._nursery is None:  # ended in the meantime
            shim.close()
            with trio.CancelScope(shield=True):
                await process.wait()
            raise RuntimeError("Processes.run has ended")
        self._shims[shim] = process
        self._nursery.start_soon(self._look_after, shim, process)
        return shim

    async def _look_after(self, shim: ShimProcess, process: trio.Process) -> None:
        with trio.CancelScope(shield=True):  # _end_shims makes it exit
            await process.wait()
        del self._shims[shim]
        if shim in self._idle:
            self._idle.remove(shim)
            shim.close()
        self._changed.unpark_all()

    def _release(self, shim: ShimProcess, *, reusable: bool) -> None:
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

    async def _forget_leases(self) -> None:
        while True:
            await trio.sleep(FORGET_S)
            for tree in self._trees:
                tree.forget_lease()

    async def _end(self) -> None:
        for tree in list(self._trees):
            await tree.stop()
        longest_s = max((tree.spec.grace_s for tree in self._trees), default=0.0)
        await self._wait_until_empty(self._trees, longest_s + STOP_MARGIN_S)
        for shim in self._shims:
            shim.close()
        await self._wait_until_empty(self._shims, SHIM_EXIT_S)
        for process in self._shims.values():
            process.kill()
        if self._keeping is not None:
            self._keeping.close()

    async def _wait_until_empty(self, members: Sized, at_most_s: float) -> None:
        with trio.move_on_after(at_most_s):
            while members:
                await self._changed.park()


class _Tree:
    """One process tree, from its start until it is gone and its output is passed on."""

    def __init__(
        self, spec: ProcessSpec, shim: ShimProcess, pipes: Pipes | None = None, output: Output | None = None
    ) -> None:
        self.spec, self._shim, self._pipes, self._output = spec, shim, pipes, output
        self.run_id = spec.env.get("TASKMAN_RUN_ID")
        self._told = math.inf  # until when it may live while it is held and works for a run
        self._started_at = trio.current_time()
        self.description: Callable[[], Entry] | None = None
        self.label: str | None = None
        self._gone = self._is_fed = False
        self._result: ProcessResult | None = None
        self._failure: Exception | None = None
        self._patience, self._feeding = trio.CancelScope(shield=True), trio.CancelScope()

    async def follow(self) -> ProcessResult:
        """Pass on the output until the tree is gone; when cancelled, stop the tree and still do so."""
        if not await self._was_short():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stop_when_cancelled)
                with self._patience:
                    await self._stream()
                nursery.cancel_scope.cancel()
        if self._failure or not self._result:
            raise self._failure or ShimLost("The process tree could not be ended in time.")
        return self._result

    async def _was_short(self) -> bool:
        """Give it a moment: most of what ends in that time needs nobody who waits for its output. False: it goes on."""
        if self._pipes is None or self._pipes.stdin is not None:
            return False
        try:
            with trio.move_on_after(SHORT_S):
                await self._wait_until_gone()
            if self._gone:
                await self._pass_on_rest(self._pipes.readers)
        except trio.Cancelled:
            await self.stop()
            with self._patience:
                await self._stream()
            raise
        return self._gone

    @contextlib.contextmanager
    def working_for(self, context: TaskContext) -> Iterator[None]:
        """Bind the tree to a run for as long as the block lasts; see HeldProcess."""
        lease = getattr(context, "lease", _ENDLESS)
        if lease.stop_at != self._told and not 0 <= lease.stop_at - self._told <= LEASE_STEP_S:
            self.tell(lease)
        self.run_id = context.run_id
        try:
            with lease.followed_by(self.tell):
                yield
        finally:
            self.run_id = None

    def forget_lease(self) -> None:
        """Let a held tree that works for nobody live on."""
        if self._pipes is None and self.run_id is None and self._told < math.inf:
            self.tell(_ENDLESS)

    def tell(self, lease: Lease) -> None:
        """Say until when the tree may live."""
        self._told = lease.stop_at
        if not self._gone:
            self._shim.mention(pack([b"lease", *_moments(lease)]))

    def is_to_be_held(self, since: float) -> bool:
        """See Lasting. Not while somebody feeds it, which no successor could go on with."""
        is_fed = self._pipes is None or self._pipes.stdin is None or self._is_fed
        is_wanted = not self._gone and self._patience.deadline == math.inf
        return self.description is not None and self._started_at <= since and is_fed and is_wanted

    def describe(self) -> Entry:
        """See Lasting."""
        assert self.description is not None
        describe, self.description = self.description, None
        return describe()

    def hold(self, label: str, path: str, listener: int) -> bool:
        """See Lasting."""
        if self._gone or self._pipes is None or self._patience.deadline < math.inf:
            return False
        frame = pack([b"hold", os.fsencode(label), os.fsencode(path)])
        if not self._shim.hand(frame, [listener, *self._pipes.outputs]):
            return False
        self.label = label
        return True

    async def kill(self) -> None:
        """Have the tree killed at once, also when it is being stopped already."""
        if not self._gone:
            with trio.move_on_after(STOP_MARGIN_S, shield=True), contextlib.suppress(ShimLost):
                await self._shim.send(pack([b"kill"]))

    async def stop(self, grace_s: float | None = None) -> None:
        """Have the tree ended within a grace (its own unless given), and `follow` return soon after."""
        grace_s = 0.0 if self._gone else self.spec.grace_s if grace_s is None else grace_s
        self._patience.deadline = min(self._patience.deadline, trio.current_time() + grace_s + STOP_MARGIN_S)
        if not self._gone:
            with trio.move_on_after(STOP_MARGIN_S, shield=True), contextlib.suppress(ShimLost):
                await self._shim.send(pack([b"stop", b"%f" % grace_s]))

    async def _stop_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            await self.stop()

    async def _stream(self) -> None:
        readers = self._pipes.readers if self._pipes else []
        async with trio.open_nursery() as nursery:
            for reader in readers:
                nursery.start_soon(self._pass_on, reader)
            if self._pipes and self._pipes.stdin is not None:
                nursery.start_soon(self._feed, self._pipes, self._pipes.stdin, memoryview(self.spec.stdin or b""))
            await self._wait_until_gone()
            self._feeding.cancel()
            for reader in readers:
                reader.finish()

    async def _pass_on_rest(self, readers: Sequence[Reader]) -> None:
        for reader in readers:
            reader.finish()
            await self._pass_on(reader)

    async def _wait_until_gone(self) -> None:
        if self._gone:
            return
        try:
            _, status, cpu_s, max_rss_bytes, overdue = await self._shim.receive()
            self._shim.busy = False
            if int(overdue):
                self._failure = LeaseEnded()
            code = int(status)
            exit_code, name = (code, None) if code >= 0 else (None, SIGNAL_NAMES.get(-code, f"SIG{-code}"))
            self._result = ProcessResult(exit_code, name, int(max_rss_bytes), float(cpu_s))
        except ShimLost as error:
            self._failure = error
            await trio.to_thread.run_sync(sweep, self.spec.env)
        self._gone = True

    async def _pass_on(self, reader: Reader) -> None:
        while data := await reader.read():
            try:
                if self._output and not self._failure:
                    await self._output(reader.name, data)
            except Exception as error:
                self._failure = error
                await self.stop()
            await trio.lowlevel.checkpoint()  # the callback need not be one

    async def _feed(self, pipes: Pipes, fd: int, rest: memoryview) -> None:
        try:
            with self._feeding, contextlib.suppress(BrokenPipeError):  # it may not want all
                while rest:
                    try:
                        rest = rest[os.write(fd, rest) :]
                    except BlockingIOError:
                        await trio.lowlevel.wait_writable(fd)
        finally:
            pipes.close_stdin()
        self._is_fed = True


def _moments(lease: Lease) -> tuple[bytes, bytes]:
    return b"%f" % lease.stop_at, b"%f" % lease.kill_at


def _spawn_request(spec: ProcessSpec, lease: Lease) -> bytes:
    if not spec.argv:
        raise ValueError("argv is empty: there is no program to start")
    if any(not name or "=" in name for name in spec.env):
        raise ValueError("the name of an environment variable is empty or contains '='")
    head = (f"{spec.grace_s:f}", os.path.abspath(spec.cwd or "."), spec.user or "", str(len(spec.argv)))
    env = (f"{name}={value}" for name, value in spec.env.items())
    return pack([b"spawn", *_moments(lease), *(os.fsencode(word) for word in (*head, *spec.argv, *env))])
