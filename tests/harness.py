"""Real servers in processes of their own, and waiting for what they do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

DEADLINE_S = 20.0


def eventually(found: Callable[[], Any], what: str = "", within_s: float = DEADLINE_S) -> Any:
    """The first true value of `found`, asked until the deadline."""
    deadline = time.monotonic() + within_s
    while not (value := found()):
        assert time.monotonic() < deadline, f"did not come true within {within_s} s: {what or found}"
        time.sleep(0.02)
    return value


class Server:
    """`taskman up` on a free port, with a data directory of its own that outlives it.

    With a `project`, it is started in that directory as users do, by the command that is installed.
    """

    def __init__(
        self, directory: Path, *options: str, environment: dict[str, str] | None = None, project: Path | None = None
    ) -> None:
        self.directory, self._project = directory, project
        self._options = options
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TASKMAN_")}
        self.environment = {**clean, "TASKMAN_DATA_DIR": str(directory), **(environment or {})}
        self.process: subprocess.Popen[str] | None = None
        self.url = self.link = self.banner = ""

    def start(self) -> Server:
        program = [sys.executable, "-P", "-m", "taskman"]
        if self._project is not None:
            program = [str(Path(sys.executable).with_name("taskman"))]
        command = [*program, "up", "--no-open", "--port", "0", *self._options]
        self.log = (self.directory.parent / f"{self.directory.name}.stderr").open("a")
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=self.environment,
            start_new_session=True,
            cwd=self._project,
        )
        assert self.process.stdout is not None
        self.banner = ""
        for line in self.process.stdout:
            self.banner += line
            if found := re.search(r"is up at (\S+)", line):
                self.url = found[1]
            if found := re.search(r"(http\S+/login\?link=\S+)", line):
                self.link = found[1]
            if "Ctrl-C" in line:
                break
        assert self.url, self.errors()
        return self

    def errors(self) -> str:
        """What it wrote to stderr."""
        return Path(self.log.name).read_text()

    @property
    def token(self) -> str:
        return (self.directory / "cli-token").read_text().strip()

    def client(self) -> httpx2.Client:
        """A client of the API with the token of this machine."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx2.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=30, trust_env=False)

    def command(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """`taskman ARGUMENTS` against this server."""
        command = [sys.executable, "-P", "-m", "taskman", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=60, **options)

    def tree(self) -> list[int]:
        """The process and all its descendants."""
        assert self.process is not None
        return [self.process.pid, *descendants(self.process.pid)]

    def kill_tree(self) -> None:
        """SIGKILL for every process of it, as the power switch would."""
        for pid in self.tree():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.reap()

    def stop(self, within_s: float = 15.0) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(within_s)
        return self.reap()

    def reap(self) -> int:
        """Wait for the end of a process that has been told to end; its exit code."""
        assert self.process is not None
        assert self.process.stdout is not None
        code = self.process.wait(10)
        self.process.stdout.close()
        self.log.close()
        self.process = None
        return code


def descendants(pid: int) -> list[int]:
    """Every process below `pid`."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, stack = [], [pid]
    while stack:
        below = children.get(stack.pop(), [])
        found += below
        stack += below
    return found
