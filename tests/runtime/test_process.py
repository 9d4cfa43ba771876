"""Process trees: what a run starts is streamed, counted, and gone when the run is over, whoever is killed."""

from __future__ import annotations

import errno
import functools
import os
import resource
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from taskman.errors import ShimLost
from taskman.runtime import process, shim
from taskman.runtime.process import Processes, ProcessSpec

PYTHON = (sys.executable, "-I", "-S", "-c")
ENV = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


def within(seconds: float) -> Callable[[Any], Any]:
    """Bound a test."""

    def decorate(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        @functools.wraps(test)
        async def bounded(*args: Any, **kwargs: Any) -> None:
            with trio.fail_after(seconds):
                await test(*args, **kwargs)

        return bounded

    return decorate


async def until(true: Callable[[], Any]) -> None:
    """Wait for a state of another process, which nothing announces."""
    while not true():
        await trio.sleep(0.005)


class Output:
    """Keeps what a process writes."""

    def __init__(self) -> None:
        self.bytes = {"out": b"", "err": b""}

    async def __call__(self, stream: str, data: bytes) -> None:
        self.bytes[stream] += data

    def has(self, text: bytes) -> bool:
        return text in self.bytes["out"]


def state(pid: int) -> str:
    """The letter of a process's state, "X" when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def carrying(mark: str) -> list[int]:
    """The living processes with `mark` in their environment or arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            text = (path / "environ").read_bytes() + (path / "cmdline").read_bytes()
        except OSError:
            continue
        if mark.encode() in text and state(int(path.name)) not in "ZX":
            found.append(int(path.name))
    return found


def shims() -> set[int]:
    """The shims of this process."""
    children = [child.pid for child in shim.processes() if child.parent == os.getpid()]
    return {pid for pid in children if b"shim.py" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def stdout_of(pid: int) -> FileIO:
    """Open the pipe that a process writes to, as if it had been handed over."""
    return FileIO(f"/proc/{pid}/fd/1", "w")


def written_by(pid: int) -> int:
    """How many bytes a process has written."""
    return int(Path(f"/proc/{pid}/io").read_text().split("wchar:")[1].split()[0])


def wait_for_death(child: int) -> None:
    """Block until a child is a zombie."""
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)


@pytest.fixture
def mark() -> Iterator[str]:
    """A text that marks the processes of one test, none of which may be left."""
    text = uuid.uuid4().hex
    yield text
    left = carrying(text)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.fixture
async def processes(nursery: trio.Nursery) -> AsyncIterator[Processes]:
    pool = Processes()
    await nursery.start(pool.run)
    yield pool
    nursery.cancel_scope.cancel()


def spec(*argv: str, grace_s: float = 5.0, mark: str = "", **changes: Any) -> ProcessSpec:
    marks = {"TASKMAN_RUN_ID": mark, "TASKMAN_ATTEMPT": "1"} if mark else {}
    fields: dict[str, Any] = {"cwd": None, "env": ENV | marks, "stdin": None, "user": None}
    return ProcessSpec(argv=argv, grace_s=grace_s, **fields | changes)


def shell(script: str, mark: str = "", **changes: Any) -> ProcessSpec:
    return spec("/bin/sh", "-c", script, mark or "sh", mark=mark, **changes)


@pytest.mark.parametrize("code", [0, 3, 255])
@within(10)
async def test_reports_the_exit_code(processes: Processes, code: int) -> None:
    result = await processes.execute(shell(f"exit {code}"), Output())
    assert (result.exit_code, result.signal) == (code, None)


@pytest.mark.parametrize(("number", "name"), [(signal.SIGSEGV, "SIGSEGV"), (signal.SIGTERM, "SIGTERM"), (40, "SIG40")])
@within(10)
async def test_reports_the_signal_that_ended_the_process(processes: Processes, number: int, name: str) -> None:
    result = await processes.execute(spec(*PYTHON, f"import os; os.kill(os.getpid(), {number})"), Output())
    assert (result.exit_code, result.signal) == (None, name)


@within(10)
async def test_keeps_stdout_and_stderr_apart(processes: Processes) -> None:
    output = Output()
    await processes.execute(shell("echo one; echo two >&2; echo three"), output)
    assert output.bytes == {"out": b"one\nthree\n", "err": b"two\n"}


@within(10)
async def test_passes_bytes_exactly_both_ways(processes: Processes) -> None:
    data, output = bytes(range(256)) * 4096 + b"\xff no newline", Output()
    result = await processes.execute(spec("cat", stdin=data), output)
    assert result.exit_code == 0
    assert output.bytes["out"] == data


@pytest.mark.parametrize("stdin", [None, b""])
@within(10)
async def test_a_process_without_input_reads_the_end_at_once(processes: Processes, stdin: bytes | None) -> None:
    assert (await processes.execute(spec("cat", stdin=stdin), Output())).exit_code == 0


@within(10)
async def test_a_process_need_not_read_its_input(processes: Processes) -> None:
    result = await processes.execute(spec("true", stdin=bytes(1 << 20)), Output())
    assert result.exit_code == 0


@within(10)
async def test_gives_exactly_the_environment_and_the_directory(processes: Processes, tmp_path: Path) -> None:
    output, env = Output(), ENV | {"LONG": "x" * 100_000, "NAMÉ": "a=b\nc"}
    await processes.execute(spec("env", "-0", env=env), output)
    assert sorted(output.bytes["out"].decode().split("\0")[:-1]) == sorted(f"{k}={v}" for k, v in env.items())
    output = Output()
    await processes.execute(spec("pwd", cwd=tmp_path), output)
    assert output.bytes["out"] == f"{tmp_path}\n".encode()


@within(20)
async def test_a_request_may_exceed_a_mebibyte(processes: Processes) -> None:
    output, words = Output(), ["y" * 100_000] * 12
    await processes.execute(spec("printf", "%s", *words), output)
    assert output.bytes["out"] == "".join(words).encode()


@within(10)
async def test_hands_down_no_signal_setting_no_fd_and_no_session(processes: Processes) -> None:
    output = Output()
    script = "cat /proc/self/status; ls /proc/self/fd; read _ _ _ _ group session _ < /proc/self/stat; echo $group"
    await processes.execute(shell(f"{script} $session $$"), output)
    text = output.bytes["out"].decode()
    masks = {
        line.split()[0]: int(line.split()[1], 16)
        for line in text.splitlines()
        if line.startswith("Sig") and "/" not in line
    }
    assert masks["SigBlk:"] == 0
    assert masks["SigIgn:"] & ((1 << 31) - 1) == 0  # the C library ignores two of its own on posix_spawn
    fds, (group, session, main) = text.split()[-7:-3], text.split()[-3:]
    assert fds == ["0", "1", "2", "3"]  # the last is the listing's own
    assert group == session == main


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user")
@within(20)
async def test_runs_as_another_user_with_the_groups_of_that_user(processes: Processes, tmp_path: Path) -> None:
    output = Output()
    result = await processes.execute(spec("id", user="nobody", cwd="/"), output)
    assert result.exit_code == 0
    assert output.bytes["out"].startswith(b"uid=65534(nobody)")
    assert b"(root)" not in output.bytes["out"]


@pytest.mark.parametrize(
    ("changes", "number", "text"),
    [
        ({"argv": ["no-such-program"]}, errno.ENOENT, "No such program in PATH: 'no-such-program'"),
        ({"argv": ["/no/such"]}, errno.ENOENT, "No such file or directory: '/no/such'"),
        ({"argv": ["/tmp"]}, errno.EACCES, "not an executable file"),
        ({"argv": ["/etc/passwd"]}, errno.EACCES, "not an executable file"),
        ({"argv": ["true"], "cwd": "/no/such"}, errno.ENOENT, "(the working directory): '/no/such'"),
        ({"argv": ["true", "x" * 3_000_000]}, errno.E2BIG, "too long"),
        ({"argv": ["true"], "user": "no-such-user"}, errno.EINVAL, "no such user: 'no-such-user'"),
    ],
)
@within(10)
async def test_says_what_could_not_be_started(processes: Processes, changes: Any, number: int, text: str) -> None:
    fields: Any = {"cwd": None, "env": ENV, "stdin": None, "user": None, "grace_s": 5.0} | changes
    with pytest.raises(OSError, match="Errno") as caught:
        await processes.execute(ProcessSpec(**fields), Output())
    assert caught.value.errno == number
    assert text in str(caught.value)
    assert (await processes.execute(spec("true"), Output())).exit_code == 0
    assert len(shims()) == 1


@within(10)
async def test_refuses_what_no_process_can_be_given(processes: Processes) -> None:
    with pytest.raises(ValueError, match="NUL"):
        await processes.execute(spec("echo", "a\0b"), Output())
    with pytest.raises(ValueError, match="argv is empty"):
        await processes.execute(spec(), Output())


@within(20)
async def test_adds_up_what_the_whole_tree_used_and_only_that(processes: Processes) -> None:
    burn = "import time; x = bytes(range(256)) * 250_000\nwhile time.process_time() < 0.3: pass"
    script = f"{' '.join(PYTHON)} '{burn}' & wait"
    burnt = await processes.execute(shell(script), Output())
    assert 0.3 <= burnt.cpu_s < 5
    assert 60e6 < burnt.max_rss_bytes < 500e6
    after = await processes.execute(spec("true"), Output())
    assert after.cpu_s < 0.3
    assert after.max_rss_bytes < 40e6


RESTART = """
import os, sys, time
def keep(partner):
    while True:
        if os.fork() == 0:
            os.setsid()
            if partner: keep(False)
            time.sleep(1000)
        os.wait()
sys.stdout.write('ready'); sys.stdout.flush(); keep(True)
"""
HOP = """
import os, sys
sys.stdout.write('ready'); sys.stdout.flush()
while True:
    if os.fork(): os._exit(0)
"""
TREES = {
    "a background child": "sleep 1000 & echo ready; wait",
    "a child that left the session": "sleep 1000 & setsid sleep 1001 & echo ready; wait",
    "a daemon forked twice": "(setsid sleep 1000 &); echo ready; sleep 1001",
    "a daemon without its environment": '(env -i setsid sh -c "sleep 1000; :" $0 &); echo ready; sleep 1001',
    "a tree that ignores SIGTERM": 'trap "" TERM; setsid sleep 1000 & echo ready; wait',
    "a shell that forks all the time": 'echo ready; while :; do sh -c "sleep 1000" & sh -c : & done',
    "a stopped process": "sleep 1000 & kill -STOP $!; echo ready; kill -STOP $$",
    "processes that restart each other": f'exec {" ".join(PYTHON)} "{RESTART}" $0',
    "a process that forks and exits": f'{" ".join(PYTHON)} "{HOP}" $0; sleep 1000',
}


async def cancel_when_ready(processes: Processes, what: ProcessSpec, output: Output) -> None:
    """Run until the process says that it is ready, then cancel; return when `execute` has."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(processes.execute, what, output)
        await until(lambda: output.has(b"ready"))
        nursery.cancel_scope.cancel()
    assert nursery.cancel_scope.cancelled_caught


@pytest.mark.parametrize("tree", TREES)
@within(20)
async def test_cancelling_leaves_nothing_of(processes: Processes, mark: str, tree: str) -> None:
    await cancel_when_ready(processes, shell(TREES[tree], mark, grace_s=0.2), Output())
    assert carrying(mark) == []
    assert (await processes.execute(spec("true"), Output())).exit_code == 0
    assert len(shims()) == 1


@within(10)
async def test_a_cancelled_process_can_clean_up_and_its_last_words_are_kept(processes: Processes, mark: str) -> None:
    output = Output()
    script = 'trap "echo cleaned; exit" TERM; echo ready; while :; do sleep 0.01; done'
    await cancel_when_ready(processes, shell(script, mark), output)
    assert output.bytes["out"] == b"ready\ncleaned\n"


@within(10)
async def test_what_the_main_process_leaves_behind_is_ended(processes: Processes, mark: str, tmp_path: Path) -> None:
    output = Output()
    daemon = 'trap "echo ended; exit" TERM; touch ready; while :; do sleep 0.01; done'
    script = f"setsid sh -c '{daemon}' & setsid sleep 1000 & while [ ! -e ready ]; do sleep 0.01; done; exit 7"
    result = await processes.execute(shell(script, mark, cwd=tmp_path), output)
    assert result.exit_code == 7
    assert output.bytes["out"] == b"ended\n"
    assert carrying(mark) == []


@within(10)
async def test_a_pipe_held_by_a_stranger_does_not_hold_the_run(processes: Processes, mark: str) -> None:
    output = Output()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(processes.execute, shell("echo ready; exec sleep 1000", mark), output)
        await until(lambda: output.has(b"ready"))
        (main,) = carrying(mark)
        with stdout_of(main) as held:
            held.write(b"the last")
            os.kill(main, signal.SIGKILL)
            await until(lambda: not nursery.child_tasks)
    assert output.bytes["out"] == b"ready\nthe last"


@within(10)
async def test_an_output_that_fails_ends_the_tree_and_is_raised_as_it_is(processes: Processes, mark: str) -> None:
    async def fail(stream: str, data: bytes) -> None:
        raise KeyError(stream)

    with pytest.raises(KeyError, match="out"):
        await processes.execute(shell("echo ready; sleep 1000", mark), fail)
    assert carrying(mark) == []


@within(10)
async def test_an_output_that_never_returns_does_not_hold_up_the_cancelling(
    processes: Processes, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "STOP_MARGIN_S", 0.2)
    taken = trio.Event()

    async def output(stream: str, data: bytes) -> None:
        taken.set()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(processes.execute, shell("echo ready; sleep 1000", mark, grace_s=0.2), output)
        await taken.wait()
        nursery.cancel_scope.cancel()
    assert carrying(mark) == []


@within(10)
async def test_ending_the_pool_ends_its_trees_and_its_shims(mark: str) -> None:
    pool, output, results = Processes(), Output(), []

    async def execute() -> None:
        results.append(await pool.execute(shell("echo ready; sleep 1000", mark), output))

    async with trio.open_nursery() as runs, trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        runs.start_soon(execute)
        await until(lambda: output.has(b"ready"))
        nursery.cancel_scope.cancel()
    assert [result.signal for result in results] == ["SIGTERM"]
    assert (carrying(mark), shims()) == ([], set())
    with pytest.raises(RuntimeError, match="not running"):
        await pool.execute(spec("true"), output)


WORKER = """
import os, sys, trio
from taskman.runtime.process import Processes, ProcessSpec
async def output(stream, data):
    os.write(1, data)
async def main():
    async with trio.open_nursery() as nursery:
        processes = Processes()
        await nursery.start(processes.run)
        for script in sys.argv[1:]:
            spec = ProcessSpec(["/bin/sh", "-c", script, os.environ["MARK"]], None, dict(os.environ), None, None, 60.0)
            nursery.start_soon(processes.execute, spec, output)
trio.run(main)
"""


@within(20)
async def test_killing_the_worker_leaves_no_process_and_no_shim(mark: str) -> None:
    names = ("a child that left the session", "a daemon without its environment", "a tree that ignores SIGTERM")
    argv = [sys.executable, "-c", WORKER, *(TREES[name] for name in names)]
    async with trio.open_nursery() as nursery:
        start = functools.partial(trio.run_process, argv, env=os.environ | {"MARK": mark}, check=False)
        worker: trio.Process = await nursery.start(functools.partial(start, stdout=-1, capture_stdout=False))
        assert worker.stdout
        seen = b""
        while seen.count(b"ready") < len(names):
            seen += await worker.stdout.receive_some()
        worker.kill()
        await until(lambda: not carrying(mark))


@within(10)
async def test_killing_a_shim_fails_its_run_and_ends_its_tree(processes: Processes, mark: str) -> None:
    output = Output()

    async def execute() -> None:
        with pytest.raises(ShimLost):
            await processes.execute(shell("setsid sleep 1000 & env -i sleep 1001 & echo ready; wait", mark), output)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(execute)
        await until(lambda: output.has(b"ready"))
        (lost,) = shims()
        os.kill(lost, signal.SIGKILL)
    assert carrying(mark) == []
    assert (await processes.execute(spec("true"), Output())).exit_code == 0
    assert lost not in shims()


@within(10)
async def test_a_shim_killed_while_idle_is_not_missed(processes: Processes) -> None:
    await processes.execute(spec("true"), Output())
    (lost,) = shims()
    os.kill(lost, signal.SIGKILL)
    wait_for_death(lost)  # without letting the pool notice
    assert (await processes.execute(spec("true"), Output())).exit_code == 0


@within(10)
async def test_a_shim_survives_the_signals_meant_for_the_worker(processes: Processes) -> None:
    await processes.execute(spec("true"), Output())
    (kept,) = shims()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        os.kill(kept, number)
    await processes.execute(spec("true"), Output())
    assert shims() == {kept}


@within(60)
async def test_a_thousand_runs_reuse_shims_and_leak_nothing(processes: Processes) -> None:
    numbers = iter(range(1000))

    async def work() -> None:
        for _ in numbers:
            assert (await processes.execute(spec("/bin/true"), Output())).exit_code == 0

    async def work_by_eight() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(work)

    await processes.execute(spec("/bin/true"), Output())
    before, fds = shims(), len(os.listdir("/proc/self/fd"))
    await work_by_eight()
    children = {child.pid for child in shim.processes() if child.parent in {os.getpid(), *shims()}}
    assert before <= shims() == children
    assert len(children) <= 8
    per_shim = (len(os.listdir("/proc/self/fd")) - fds) / max(1, len(children - before))
    assert per_shim in (0, 2)  # its lifeline, and what trio waits for its exit with


@within(3600)  # by the mock clock
async def test_idle_shims_beyond_a_few_are_retired(processes: Processes, mock_clock: trio.testing.MockClock) -> None:
    output = Output()
    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(processes.execute, spec("cat", stdin=b"."), output)
    started = len(shims())
    assert 1 < started <= 6
    mock_clock.rate = 1000.0
    await until(lambda: len(shims()) <= 4)


@within(20)
async def test_a_reader_that_waits_makes_the_process_wait(processes: Processes, mark: str) -> None:
    go_on, sizes = trio.Event(), []

    async def output(stream: str, data: bytes) -> None:
        sizes.append(len(data))
        await go_on.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(processes.execute, shell("exec yes $0", mark), output)
        await until(lambda: sizes and [pid for pid in carrying(mark) if state(pid) == "S"])
        (writer,) = carrying(mark)
        assert written_by(writer) < 300_000  # a pipe, what was read from it, and what is being written
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        go_on.set()
        await until(lambda: sum(sizes) > 100_000_000)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < peak + 20_000
        nursery.cancel_scope.cancel()
    assert max(sizes) <= 65_536
