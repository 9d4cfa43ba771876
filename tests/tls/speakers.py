"""Everything that speaks to a server: a worker node, the command line, both clients of the SDK."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from taskman import AsyncClient, Client, TaskmanError

TRUSTED = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True, slots=True)
class Said:
    """How it ended: an exit code or the name of an exception, and what it said."""

    code: int | str
    text: str


Speaker = Callable[[str, str, Path, dict[str, str]], Said]


def environment(directory: Path, **more: str) -> dict[str, str]:
    """That of a user whom nobody told whom to trust."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TASKMAN_", "SSL_CERT_"))}
    return {**clean, "TASKMAN_DATA_DIR": str(directory), **more}


def _command(*arguments: str) -> Speaker:
    def speak(url: str, token: str, directory: Path, more: dict[str, str]) -> Said:
        given = environment(directory, TASKMAN_SERVER=url, TASKMAN_TOKEN=token, **more)
        command = [sys.executable, "-P", "-m", "taskman", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=given, cwd=directory)
        assert "Traceback" not in done.stderr
        return Said(done.returncode, done.stdout + done.stderr)

    return speak


def _client(speak: Callable[[str, str], object]) -> Speaker:
    def spoken(url: str, token: str, directory: Path, more: dict[str, str]) -> Said:
        with pytest.MonkeyPatch.context() as patch:
            for name in TRUSTED:
                patch.delenv(name, raising=False)
            for name, value in more.items():
                patch.setenv(name, value)
            try:
                speak(url, token)
            except TaskmanError as error:
                return Said(type(error).__name__, str(error))
        return Said(0, "")

    return spoken


def _ask(url: str, token: str) -> None:
    with Client(url, token) as client:
        client.queues()


def _ask_under_trio(url: str, token: str) -> None:
    async def ask() -> None:
        async with AsyncClient(url, token) as client:
            await client.queues()

    trio.run(ask)


CLIENTS = [
    pytest.param(_command("queues", "list"), id="cli"),
    pytest.param(_client(_ask), id="Client"),
    pytest.param(_client(_ask_under_trio), id="AsyncClient"),
]
SPEAKERS = [pytest.param(_command("worker"), id="worker"), *CLIENTS]
