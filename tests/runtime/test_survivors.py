"""Workers are killed and started again: what they ran goes on as the same attempt, or is gone for certain."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from runtime.trees import carrying, listens, looks_in_proc, parent, state, until, within

from taskman.model.admission import Node
from taskman.model.ids import new_run_id
from taskman.model.run import Run, RunSpec
from taskman.model.states import State
from taskman.plugins import PluginRegistry
from taskman.runtime.journal import Entry, Journal
from taskman.runtime.lease import KILL_MARGIN_S, LEASE_S, MARGIN_S, now
from taskman.runtime.link_local import LocalLink
from taskman.runtime.shim.hold import PATIENCE_S
from taskman.runtime.survivors import pick_up
from taskman.store.runs import Assignment, Submission
from taskman.store.store import Store

PROGRAM = Path(__file__).parent.parent / "lone_worker.py"
NOTE = "the worker was restarted here; a moment of output may be missing"
COUNT = "i=0; while [ $i -lt 80 ]; do i=$((i+1)); echo line $i; sleep 0.03; done; echo $TASKMAN_ATTEMPT >> {0}; exit 3"
# Ends when its file is there. The first attempt leaves its mark, as every one does.
WAIT = "echo $TASKMAN_ATTEMPT >> {0}; while [ ! -e {0}.go ]; do sleep 0.05; done; echo done"
pytestmark = looks_in_proc


class Scene:
    """Workers of one id, one after the other, on one journal."""

    def __init__(self, store: Store, redis_url: str, directory: Path, nursery: trio.Nursery) -> None:
        self.store, self.journal = store, directory / "journal"
        self._command = [sys.executable, str(PROGRAM), redis_url, "1000000", str(self.journal)]
        self._nursery = nursery
        self._worker: trio.Process | None = None

    async def start(self) -> None:
        """Start a worker."""
        run = partial(trio.run_process, self._command, stdout=subprocess.DEVNULL, check=False)
        self._worker = await self._nursery.start(run)

    async def kill(self) -> None:
        """SIGKILL for the worker alone."""
        assert self._worker is not None
        self._worker.kill()
        await self._worker.wait()

    def signal(self, number: int) -> None:
        """Send a signal to the worker alone."""
        assert self._worker is not None
        self._worker.send_signal(number)

    async def restart(self) -> None:
        """Kill the worker, and start the next one."""
        await self.kill()
        await self.start()

    async def submit(self, command: str, **options: Any) -> str:
        params = {"command": command} | options.pop("params", {})
        spec = RunSpec(type="shell", params=params, **options)
        return (await self.store.runs.submit([Submission(new_run_id(), spec)], by="test"))[0].run_id

    async def held(self, run_id: str) -> int:
        """Wait until a run's tree would outlive the worker; its shim."""
        await until(lambda: any(listens(parent(pid)) for pid in at_work(run_id)))
        return next(shim for pid in at_work(run_id) if listens(shim := parent(pid)))

    async def noted(self, run_id: str, times: int = 1) -> None:
        """Wait until the log says that the run has gone on so often."""
        while (await self.log(run_id)).count(NOTE) < times:
            await trio.sleep(0.01)

    async def ended(self, run_id: str) -> Run:
        while not (run := await self.store.runs.get(run_id)).is_final:
            await trio.sleep(0.01)
        return run

    async def log(self, run_id: str) -> list[str]:
        chunks = await self.store.logs.read(run_id, 1, limit=1000)
        assert [chunk.first_line for chunk in chunks[1:]] == [chunk.end_line for chunk in chunks[:-1]]
        return b"".join(chunk.data for chunk in chunks).decode().splitlines()


@pytest.fixture
async def scene(store: Store, redis_url: str, tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Scene]:
    scene = Scene(store, redis_url, tmp_path, nursery)
    await scene.start()
    yield scene
    await scene.kill()


def at_work(run_id: str) -> list[int]:
    return [pid for pid in carrying(run_id) if state(pid) != "X"]


def attempts(run: Run) -> list[str]:
    return [attempt.state for attempt in run.attempts]


def check_lines(lines: list[str], count: int) -> None:
    """All lines in order, but for a moment's at the note."""
    where = lines.index(NOTE)
    before, after = lines[:where], lines[where + 1 :]
    wanted = [f"line {number}" for number in range(1, count + 1)]
    assert before == wanted[: len(before)]
    assert after == wanted[count - len(after) :]
    assert count - 10 <= len(before) + len(after) <= count


@within(60)
async def test_runs_go_on_when_their_worker_was_killed_and_comes_back(scene: Scene, tmp_path: Path) -> None:
    traces = [tmp_path / "trace-1", tmp_path / "trace-2"]
    runs = [await scene.submit(COUNT.format(trace)) for trace in traces]
    for run_id in runs:
        await scene.held(run_id)
    await scene.restart()
    for trace, run_id in zip(traces, runs, strict=True):
        run = await scene.ended(run_id)
        assert (run.state, attempts(run), run.result["exit_code"]) == (State.FAILED, ["failed"], 3)
        check_lines(await scene.log(run_id), 80)
        assert trace.read_text() == "1\n"
    await until(lambda: not list(scene.journal.iterdir()))


@within(60)
async def test_a_run_goes_on_through_many_restarts(scene: Scene, tmp_path: Path) -> None:
    run_id = await scene.submit(WAIT.format(tmp_path / "trace"))
    shim = await scene.held(run_id)
    for number in range(1, 4):
        await scene.restart()
        await scene.noted(run_id, number)
    assert parent(at_work(run_id)[0]) == shim
    (tmp_path / "trace.go").touch()
    run = await scene.ended(run_id)
    assert (run.state, attempts(run)) == (State.SUCCEEDED, ["succeeded"])
    assert await scene.log(run_id) == [NOTE, NOTE, NOTE, "done"]
    assert (tmp_path / "trace").read_text() == "1\n"
    await until(lambda: state(shim) in "ZX")


@within(60)
async def test_how_a_run_ended_while_nobody_was_there_is_told_to_who_comes(scene: Scene, tmp_path: Path) -> None:
    run_id = await scene.submit(WAIT.format(tmp_path / "trace") + "; exec sh -c 'echo last words; exit 9'")
    await scene.held(run_id)
    await scene.kill()
    (tmp_path / "trace.go").touch()
    await until(lambda: not at_work(run_id))
    await scene.start()
    run = await scene.ended(run_id)
    assert (run.state, attempts(run), run.result["exit_code"]) == (State.FAILED, ["failed"], 9)
    assert sorted(await scene.log(run_id)) == sorted([NOTE, "done", "last words"])


@pytest.mark.slow
@within(60)
async def test_nothing_is_left_of_a_worker_that_does_not_come_back_in_time(scene: Scene, tmp_path: Path) -> None:
    run_id = await scene.submit(f"trap '' TERM; {WAIT.format(tmp_path / 'trace')}")
    shim, killed_at = await scene.held(run_id), now()
    await scene.kill()
    await until(lambda: not at_work(run_id) and state(shim) in "ZX")
    assert PATIENCE_S <= now() - killed_at < PATIENCE_S + 4
    assert [path.suffix for path in scene.journal.iterdir()] == [".json"]
    (tmp_path / "trace.go").touch()
    await scene.start()
    assert attempts(await scene.ended(run_id)) == ["lost", "succeeded"]
    assert (tmp_path / "trace").read_text() == "1\n2\n"
    assert list(scene.journal.iterdir()) == []


@pytest.mark.slow
@within(60)
async def test_a_lease_that_ends_earlier_is_kept_while_nobody_is_there(scene: Scene, tmp_path: Path) -> None:
    run_id = await scene.submit(WAIT.format(tmp_path / "trace"), lost_grace_s=0.0)
    await scene.held(run_id)
    killed_at = now()
    await scene.kill()
    await until(lambda: not at_work(run_id))
    assert now() - killed_at < LEASE_S - MARGIN_S + 1
    assert (await scene.store.runs.get(run_id)).state is State.RUNNING
    (tmp_path / "trace.go").touch()
    await scene.start()
    assert attempts(await scene.ended(run_id)) == ["lost", "succeeded"]


@within(60)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_run_that_went_on_can_be_cancelled_with_its_grace(scene: Scene, tmp_path: Path, when: str) -> None:
    command = f"trap 'echo cleaned; exit' TERM; {WAIT.format(tmp_path / 'trace')}"
    run_id = await scene.submit(command)
    await scene.held(run_id)
    await scene.kill()
    if when == "before":
        await scene.store.runs.cancel(run_id, by="test")
    await scene.start()
    if when == "after":
        await scene.noted(run_id)
        await scene.store.runs.cancel(run_id, by="test")
    run = await scene.ended(run_id)
    assert (run.state, attempts(run)) == (State.CANCELLED, ["cancelled"])
    log = await scene.log(run_id)
    assert log[0] == NOTE
    assert "cleaned" in log
    assert at_work(run_id) == []


@within(60)
async def test_a_time_limit_counts_from_the_start_and_not_from_the_restart(scene: Scene, tmp_path: Path) -> None:
    run_id = await scene.submit(WAIT.format(tmp_path / "trace"), timeout_s=4.0)
    await scene.held(run_id)
    await scene.restart()
    run = await scene.ended(run_id)
    (attempt,) = run.attempts
    assert attempt.reason == "timeout"
    assert attempt.finished_ms is not None
    assert 3900 <= attempt.finished_ms - attempt.started_ms < 6000


@within(60)
async def test_a_run_that_is_being_ended_is_not_gone_on_with(scene: Scene, tmp_path: Path) -> None:
    run_id = await scene.submit(f"trap 'echo stopping' TERM; {WAIT.format(tmp_path / 'trace')}", grace_s=30.0)
    await scene.held(run_id)
    await scene.store.runs.cancel(run_id, by="test")
    while "stopping" not in await scene.log(run_id):
        await trio.sleep(0.01)
    await scene.kill()
    await until(lambda: not at_work(run_id))
    await scene.start()
    run = await scene.ended(run_id)
    assert run.state is State.CANCELLED
    assert NOTE not in await scene.log(run_id)


@pytest.mark.slow
@within(60)
async def test_a_tree_that_its_lease_is_ending_ends_with_its_worker(scene: Scene, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    command = f"trap 'echo stopping >> {trace}' TERM; {WAIT.format(trace)}"
    run_id = await scene.submit(command, lost_grace_s=0.0, grace_s=60.0)
    shim = await scene.held(run_id)
    scene.signal(signal.SIGSTOP)
    await until(lambda: "stopping" in trace.read_text())
    stopped_at = now()
    await scene.kill()
    await until(lambda: not at_work(run_id) and state(shim) in "ZX")
    assert now() - stopped_at < MARGIN_S - KILL_MARGIN_S
    (tmp_path / "trace.go").touch()
    await scene.start()
    assert attempts(await scene.ended(run_id)) == ["lost", "succeeded"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@within(60)
async def test_another_user_is_not_let_in(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = await scene.submit(WAIT.format(tmp_path / "trace"))
    await scene.held(run_id)
    await scene.kill()
    monkeypatch.chdir(scene.journal)
    for name, mode in ((".", 0o711), (f"{run_id}-1.sock", 0o666)):
        os.chmod(name, mode)
    with socket.socket(socket.AF_UNIX) as stranger:
        os.seteuid(65534)
        try:
            stranger.connect(f"{run_id}-1.sock")
        finally:
            os.seteuid(0)
        await trio.lowlevel.wait_readable(stranger)
        assert stranger.recv(100) == b""
    (tmp_path / "trace.go").touch()
    await scene.start()
    assert attempts(await scene.ended(run_id)) == ["succeeded"]


@within(60)
async def test_what_is_still_being_fed_is_not_held(scene: Scene, tmp_path: Path) -> None:
    hungry = await scene.submit(WAIT.format(tmp_path / "trace"), params={"stdin": "x" * 200_000})
    fed = await scene.submit("cat > /dev/null; exec sleep 60", params={"stdin": "x" * 200_000})
    shim = await scene.held(fed)
    await until(lambda: (tmp_path / "trace").exists())
    assert not any(listens(parent(pid)) for pid in at_work(hungry))
    await scene.kill()
    await until(lambda: not at_work(hungry))
    assert at_work(fed)
    os.kill(shim, signal.SIGTERM)  # which it survives
    (tmp_path / "trace.go").touch()
    await scene.start()
    assert attempts(await scene.ended(hungry)) == ["lost", "succeeded"]
    await scene.store.runs.cancel(fed, by="test")
    assert attempts(await scene.ended(fed)) == ["cancelled"]


@within(30)
async def test_a_short_run_leaves_nothing_in_the_journal(scene: Scene) -> None:
    assert (await scene.ended(await scene.submit("true"))).state is State.SUCCEEDED
    assert not scene.journal.exists()


@within(60)
async def test_what_nobody_can_go_on_with_is_gone_before_its_run_is_given_back(scene: Scene, tmp_path: Path) -> None:
    run_id = await scene.submit(WAIT.format(tmp_path / "trace"))
    await scene.held(run_id)
    await scene.kill()
    link = LocalLink(scene.store, Node(id="w1", types=frozenset(), labels={}, slots=0, running=0))
    assert await pick_up(Journal(scene.journal), PluginRegistry(), link) == []
    assert at_work(run_id) == []
    assert list(scene.journal.iterdir()) == []
    assert (await scene.store.runs.get(run_id)).state is State.QUEUED
    (tmp_path / "trace.go").touch()
    await scene.start()
    assert attempts(await scene.ended(run_id)) == ["lost", "succeeded"]


@within(60)
async def test_a_run_that_was_given_away_meanwhile_is_ended_and_not_told_of(scene: Scene, tmp_path: Path) -> None:
    run_id = await scene.submit(WAIT.format(tmp_path / "trace"))
    await scene.held(run_id)
    await scene.kill()
    await scene.store.runs.reclaim_from("w1")
    (tmp_path / "trace.go").touch()
    await scene.start()
    run = await scene.ended(run_id)
    assert attempts(run) == ["lost", "succeeded"]
    assert at_work(run_id) == []


def test_what_cannot_be_read_is_removed_from_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    entry = Entry(Assignment(new_run_id(), 2, RunSpec(type="shell", params={"command": "é"}), 1), 5.5, tmp_path / "x")
    with journal.add(entry):
        (tmp_path / "torn.json").write_text('{"run": "r0')
        (tmp_path / "other.json").write_text("[]")
        (tmp_path / "left.sock").touch()
        (tmp_path / f"{entry.label}.new").touch()
        assert journal.entries() == [entry]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{entry.label}.json", f"{entry.label}.sock"]
    assert (tmp_path / f"{entry.label}.json").stat().st_mode & 0o777 == 0o600
    assert journal.connect(entry.label) is None
