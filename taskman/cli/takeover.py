"""`taskman import`: takes over what another scheduler does."""

from __future__ import annotations

import pwd
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..client import Client, Document
from ..config import load, local_timezone
from ..errors import NotFound
from .exits import Exit
from .group import NounGroup, examples
from .output import notice, print_json, styled
from .session import session

__all__ = ["import_"]


@click.group("import", cls=NounGroup, epilog=examples("taskman import crontab /etc/crontab --dry-run"))
def import_() -> None:
    """Take over what another scheduler does."""


@import_.command(
    epilog=examples(
        "crontab -l | taskman import crontab - --user $USER --dry-run",
        "taskman import crontab /etc/cron.d/certbot",
        "taskman import crontab backup.cron --prefix web1- --timezone Europe/Berlin",
    )
)
@click.argument("file", metavar="FILE|-")
@click.option("--user", metavar="U", help="Whose crontab it is, where it has no column for that.")
@click.option("--system/--user-format", "system", default=None, help="With the user as sixth column, or without.")
@click.option("--timezone", metavar="ZONE", help="The zone of the clock it was written for; else this machine's.")
@click.option("--prefix", default="", help="Put before the name of each task.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done; needs no server.")
@click.option("--json", "as_json", is_flag=True, help="The report and the tasks as one JSON document.")
def crontab(
    file: str, user: str | None, system: bool | None, timezone: str | None, prefix: str, dry_run: bool, as_json: bool
) -> int:
    """Make a task of every line of a crontab, and say of each what differs from cron.

    The same crontab again changes nothing. A line that has no equal is refused, the others are taken over.
    """
    from .crontab_lines import has_user_column
    from .crontab_tasks import Machine, take_over

    text = _read(file)
    if system is None:
        system = _is_system_file(file) or has_user_column(text, frozenset(one.pw_name for one in pwd.getpwall()))
    if system and user:
        raise click.UsageError("--user does not go with a crontab that has a column for it; or use --user-format")
    machine = Machine(timezone or load().timezone or local_timezone(), user, prefix, _home_of)
    report, tasks = take_over(text, system=system, machine=machine)
    outcomes = {} if dry_run else _save(tasks)
    if as_json:
        lines = [
            {"line": one.number, "task": one.name, "refused": one.refusal, "differs": one.differences} for one in report
        ]
        print_json({"lines": lines, "tasks": tasks, "outcomes": outcomes})
    else:
        _print(report, {task["name"]: task for task in tasks}, outcomes)
    refused = sum(one.refusal is not None for one in report)
    notice(_summary(len(report), refused, tasks, outcomes, dry_run))
    return Exit.ERROR if refused else Exit.OK


def _read(file: str) -> str:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise click.UsageError(f"{file} cannot be read: {error.strerror}") from None
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise click.UsageError(f"{file} is not text in UTF-8") from None


def _is_system_file(file: str) -> bool:
    path = Path(file).absolute()
    return path == Path("/etc/crontab") or path.parent.name == "cron.d"


def _home_of(user: str) -> str | None:
    try:
        return pwd.getpwnam(user).pw_dir
    except KeyError:
        return None


def _save(tasks: Sequence[Document]) -> dict[str, str]:
    """Save what is new or differs; what people have added to a task that is there stays."""
    with session() as client:
        return {task["name"]: _save_one(client, task) for task in tasks}


def _save_one(client: Client, task: Document) -> str:
    try:
        there = client.task(task["name"])
    except NotFound:
        client.create_task(task)
        return "created"
    if all(there.get(name) == value for name, value in task.items()):
        return "unchanged"
    client.put_task(task["name"], there | task)
    return "changed"


def _print(report: Sequence[Any], tasks: dict[str, Document], outcomes: dict[str, str]) -> None:
    taken = [one.differences for one in report if one.refusal is None]
    common = [text for text in taken[0] if all(text in others for others in taken)] if len(taken) > 1 else []
    for one in report:
        click.echo(styled(f"line {one.number}: ", dim=True) + one.text)
        if one.refusal is not None:
            click.echo(styled("  refused: ", fg="red") + one.refusal)
            continue
        outcome = outcomes.get(one.name, "would be")
        click.echo(f"  {styled(outcome, fg='green')}: {one.name}")
        for difference in one.differences:
            if difference not in common:
                click.echo(styled("  differs: ", fg="yellow") + difference)
    for difference in common:
        click.echo(styled("every line differs: ", fg="yellow") + difference)


def _summary(lines: int, refused: int, tasks: Sequence[Document], outcomes: dict[str, str], dry_run: bool) -> str:
    if not lines:
        return "there is nothing in this crontab that runs"
    if dry_run:
        found = (
            f"{lines} line{'s' * (lines != 1)} would make {len(tasks)} task{'s' * (len(tasks) != 1)}; nothing was saved"
        )
    else:
        counted = [f"{list(outcomes.values()).count(word)} {word}" for word in ("created", "changed", "unchanged")]
        found = f"{lines} line{'s' * (lines != 1)}: tasks {', '.join(counted)}"
    return f"{found}; {refused} refused" if refused else found
