"""How a command ends: its exit code, and what it says of an error that was to be expected."""

from __future__ import annotations

import os
import sys
from enum import IntEnum

import click

from ..errors import (
    Conflict,
    Forbidden,
    NotFound,
    ServerUnreachable,
    TaskmanError,
    Unauthenticated,
    WaitTimedOut,
)

__all__ = ["Exit", "exit_code", "guard", "report"]


class Exit(IntEnum):
    """Every exit code there is."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_ALLOWED = 4
    CONFLICT = 5
    RUN_UNSUCCESSFUL = 6
    WAIT_TIMED_OUT = 7
    UNREACHABLE = 8
    INTERRUPTED = 130


_BY_ERROR: tuple[tuple[type[TaskmanError], Exit], ...] = (
    (ServerUnreachable, Exit.UNREACHABLE),
    (NotFound, Exit.NOT_FOUND),
    (Unauthenticated, Exit.NOT_ALLOWED),
    (Forbidden, Exit.NOT_ALLOWED),
    (Conflict, Exit.CONFLICT),
    (WaitTimedOut, Exit.WAIT_TIMED_OUT),
)


def guard(command: click.Command) -> int:
    """Run the command; the exit code, after an expected error has been explained on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        result = command.main(prog_name="taskman", standalone_mode=False)
        sys.stdout.flush()
    except click.Abort:
        return Exit.INTERRUPTED
    except click.ClickException as error:
        return _report_usage(error)
    except BrokenPipeError:
        return _leave_quietly()
    except TaskmanError as error:
        report(error)
        return exit_code(error)
    return result if isinstance(result, int) else Exit.OK


def exit_code(error: TaskmanError) -> Exit:
    """The exit code that stands for the error."""
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), Exit.ERROR)


def report(error: TaskmanError) -> None:
    """Say on stderr what went wrong, where exactly, and what to do."""
    message, faults = str(error), getattr(error, "faults", ())
    are_placed = any(fault.pointer for fault in faults)
    if are_placed and all(fault.detail in message for fault in faults):
        message = "this is not right:"  # the message is but the faults in one line
    click.echo(f"taskman: {message}", err=True)
    for fault in faults if are_placed else ():
        click.echo(f"  {fault.pointer or '/'}: {fault.detail}", err=True)
    if "TASKMAN_" not in message and (remedy := _remedy(error)):
        click.echo(f"  {remedy}", err=True)


def _remedy(error: TaskmanError) -> str:
    if isinstance(error, Unauthenticated):
        return "Set TASKMAN_TOKEN (or TASKMAN_TOKEN_FILE) to a token of this server."
    if isinstance(error, Forbidden) and error.scope:
        return f"Set TASKMAN_TOKEN to such a token; an admin makes one: taskman tokens create --scope {error.scope}"
    return "Set TASKMAN_TOKEN to a token with a wider scope." if isinstance(error, Forbidden) else ""


def _report_usage(error: click.ClickException) -> int:
    click.echo(f"taskman: {error.format_message()}", err=True)
    context = getattr(error, "ctx", None)
    if context is not None:
        click.echo(f"  Help: {context.command_path} --help", err=True)
    return Exit.USAGE if isinstance(error, click.UsageError) else Exit.ERROR


def _leave_quietly() -> int:
    """The reader has gone (`| head`): say nothing, and let nothing more be written when Python ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    return Exit.ERROR
