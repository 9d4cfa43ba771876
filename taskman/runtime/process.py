"""Process trees of a worker: starts them through shims, streams their output, and ends them to the last process.

A tree belongs to a shim (`shim/`), not to the worker: so nothing can leave it, and it dies even when the worker
is killed, or waits for the next one. A shim serves one run at a time, and is used again once its tree is gone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence, Sized

import trio

from ..tasktypes import HeldProcess, ProcessResult
from .journal import Entry, Journal
from .keeping import Keeping
from .lease import Lease
from .lifeline import ShimProcess
from .pipes import Pipes
from .process_tree import ENDLESS, STOP_MARGIN_S, Output, ProcessSpec, ProcessTree, moments
from .shim.frames import pack
from .survivors import Survivor

__all__ = ["ProcessSpec", "Processes"]

SHIM_EXIT_S = 5.0
IDLE_SHIMS, IDLE_S = 4, 60.0  # so many are kept for ever, the others so long
# So often trees that hold no run's lease any more are told so: sooner than any lease could end.
FORGET_S = 4.0


class Processes:
    """The process trees of one worker, and the shims that hold them. Those that `journal` knows may outlive it."""

    def __init__(self, journal: Journal | None = None) -> None:
        self._nursery: trio.Nursery | None = None
        self._shims: dict[ShimProcess, trio.Process] = {}
        self._idle: list[ShimProcess] = []  # the one used last is at the end, and used next
        self._trees: set[ProcessTree] = set()
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
        stream is not read, and the process has to wait. What was written in the first 20 ms may come as all of "out",
        then all of "err". What the main process leaves behind gets SIGTERM, and
        SIGKILL after two seconds, or the grace where that is shorter.
        When `lease` comes to its end, the shim ends the tree, also while this whole process stands still.
        A tree that somebody can `describe` is put into the journal once it has lasted for half a second.
        Units: `max_rss_bytes` is at least that of a shim, 10 MiB or so (the kernel counts from before exec).
        Cancellation: the tree gets SIGTERM, and SIGKILL after the grace; output is passed on meanwhile. Cancelled
        is raised when no process is left (or, if one hangs in the kernel, five seconds after the grace).
        Raises: OSError when the program cannot be started; ValueError for what no process can be given; LeaseEnded;
        ShimLost; and what `output` raised, once the tree is ended as if cancelled.
        """
        lease = lease or ENDLESS
        pipes = Pipes(with_stdin=spec.stdin is not None)
        try:
            told = lease.stop_at
            shim = await self._start_tree(_spawn_request(spec, lease), pipes.handed)
            pipes.close_handed()
            tree = ProcessTree(spec, shim, pipes, output)
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
        try:
            tree = ProcessTree(spec, survivor.shim, Pipes(outputs=survivor.outputs), output)
            tree.label = survivor.entry.label
            tree.tell(lease)
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
        shim = await self._start_tree(_spawn_request(spec, ENDLESS), [out, err, stdin])
        tree = ProcessTree(spec, shim)
        task_status.started(tree)
        return await self._follow(tree, shim)

    async def _follow(self, tree: ProcessTree, shim: ShimProcess) -> ProcessResult:
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


def _spawn_request(spec: ProcessSpec, lease: Lease) -> bytes:
    if not spec.argv:
        raise ValueError("argv is empty: there is no program to start")
    if any(not name or "=" in name for name in spec.env):
        raise ValueError("the name of an environment variable is empty or contains '='")
    head = (f"{spec.grace_s:f}", os.path.abspath(spec.cwd or "."), spec.user or "", str(len(spec.argv)))
    env = (f"{name}={value}" for name, value in spec.env.items())
    return pack([b"spawn", *moments(lease), *(os.fsencode(word) for word in (*head, *spec.argv, *env))])
