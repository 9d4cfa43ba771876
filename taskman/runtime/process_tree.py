"""One process tree of a worker, followed from its start until it is gone and its output is passed on."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from ..errors import LeaseEnded, ShimLost
from ..tasktypes import ProcessResult, TaskContext
from .journal import Entry
from .lease import Lease
from .lifeline import ShimProcess
from .pipes import Pipes, Reader
from .shim.frames import pack
from .sweep import sweep

__all__ = ["ENDLESS", "STOP_MARGIN_S", "Output", "ProcessSpec", "ProcessTree", "moments"]

Output = Callable[[str, bytes], Awaitable[None]]

SIGNAL_NAMES = {number.value: number.name for number in signal.Signals}
SHORT_S = 0.02  # of output that comes sooner, nobody minds that it is read so much later
STOP_MARGIN_S = 5.0  # beyond the grace: to kill, to reap, and to pass on the last output
# A held tree may be told of leases so much too short: then many calls a second need few messages.
LEASE_STEP_S = 1.0
ENDLESS = Lease(math.inf, 0.0)


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to start. `env` comes on top of the worker's; in it a run's id and attempt, or TASKMAN_TREE, mark a tree."""

    argv: Sequence[str]
    cwd: str | Path | None
    env: Mapping[str, str]
    stdin: bytes | None
    user: str | None
    grace_s: float


class ProcessTree:
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
        self._gone = self._is_fed = self._is_refused = False
        self._result: ProcessResult | None = None
        self._failure: Exception | None = None
        self._patience, self._feeding = trio.CancelScope(shield=True), trio.CancelScope()
        self._last_words = trio.CancelScope()

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
                with self._last_words:
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
        lease = getattr(context, "lease", ENDLESS)
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
            self.tell(ENDLESS)

    def tell(self, lease: Lease) -> None:
        """Say until when the tree may live."""
        self._told = lease.stop_at
        if not self._gone:
            self._shim.mention(pack([b"lease", *moments(lease)]))

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
        self._last_words.deadline = self._patience.deadline
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
                if self._output and not self._is_refused:
                    await self._output(reader.name, data)
            except Exception as error:
                self._failure, self._is_refused = self._failure or error, True
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


def moments(lease: Lease) -> tuple[bytes, bytes]:
    """Until when a tree may live, as a shim is told: for SIGTERM and for SIGKILL, on the clock of both."""
    return b"%f" % lease.stop_at, b"%f" % lease.kill_at
