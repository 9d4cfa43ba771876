"""One process: what it is given, what it writes, what it uses, and how it ended."""

from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from runtime.trees import (
    ENV,
    PYTHON,
    Output,
    carrying,
    looks_in_proc,
    shell,
    shims,
    spec,
    state,
    until,
    within,
)

from taskman.runtime.environment import inherited
from taskman.runtime.process import Processes, ProcessSpec

pytestmark = looks_in_proc


def written_by(pid: int) -> int:
    """How many bytes a process has written."""
    return int(Path(f"/proc/{pid}/io").read_text().split("wchar:")[1].split()[0])


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
    expected = inherited() | env
    assert sorted(output.bytes["out"].decode().split("\0")[:-1]) == sorted(f"{k}={v}" for k, v in expected.items())
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
