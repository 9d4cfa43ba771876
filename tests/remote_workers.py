"""Remote workers in processes of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from harness import descendants, eventually


class WorkerProcess:
    """`taskman worker` with a data directory of its own that outlives it."""

    def __init__(self, directory: Path, url: str, token: str, *options: str, **environment: str) -> None:
        self.directory, self.url, self.token, self._options = directory, url, token, options
        self._environment = environment
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> WorkerProcess:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TASKMAN_")}
        environment = {**clean, "TASKMAN_DATA_DIR": str(self.directory), "TASKMAN_TOKEN": self.token}
        environment |= self._environment
        command = [sys.executable, "-P", "-m", "taskman", "worker", "--server", self.url, *self._options]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env=environment, start_new_session=True)
        return self

    @property
    def _log(self) -> Path:
        return self.directory.parent / f"{self.directory.name}.stderr"

    def errors(self) -> str:
        """What it wrote to stderr."""
        return self._log.read_text()

    def connected(self, times: int = 1) -> WorkerProcess:
        """Wait until it has been welcomed so often."""
        eventually(
            lambda: self.errors().count("connected to server") >= times, f"connected {times} times: {self.errors()}", 20
        )
        return self

    @property
    def id(self) -> str:
        return (self.directory / "workers" / "worker-0").read_text()

    def spooled(self) -> list[Path]:
        """The files of the attempts that it could not deliver."""
        return [path for path in (self.directory / "spool").rglob("*") if path.is_file()]

    def end(self, how: int = signal.SIGTERM, within_s: float = 20.0) -> int:
        """Send a signal, and the exit code."""
        assert self.process is not None
        self.process.send_signal(how)
        code = self.process.wait(within_s)
        self.process = None
        return code

    def kill_tree(self) -> None:
        """SIGKILL for it and all it has started."""
        assert self.process is not None
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(10)
        self.process = None

    def disconnections(self) -> int:
        """How often it has told that it lost its server."""
        return len(re.findall("not connected", self.errors()))
