"""`taskman tasks`: saved tasks."""

from __future__ import annotations

import json
from datetime import datetime

import click

from ..answers import Document, definition_of
from ..client import Client
from ..model.instants import format_duration, parse_duration
from .group import NounGroup, examples
from .output import fields, notice, print_json, print_jsonl, remaining, short_time, table
from .session import known_task, session
from .typed import object_from

__all__ = ["tasks"]


@click.group(cls=NounGroup, epilog=examples("taskman tasks list", "taskman tasks create -f nightly.json"))
def tasks() -> None:
    """List, inspect, create and delete tasks."""


@tasks.command("list", epilog=examples("taskman tasks list", "taskman tasks list --json"))
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option("--jsonl", "as_lines", is_flag=True, help="One JSON object a line.")
def list_tasks(as_json: bool, as_lines: bool) -> None:
    """List every task."""
    with session() as client:
        found = client.tasks(limit=1000)
        if as_lines:
            print_jsonl(found)
        elif as_json:
            print_json({"items": list(found)})
        else:
            table(("NAME", "TYPE", "SCHEDULES", "ENABLED", "DESCRIPTION"), map(_row, found), whole=("NAME",))


def _row(task: Document) -> tuple[str, ...]:
    return (
        task["name"],
        task["type"],
        ", ".join(map(_schedule, task.get("schedules") or ())),
        "yes" if task.get("enabled", True) else "no",
        task.get("description") or "",
    )


def _schedule(schedule: Document) -> str:
    """A schedule in few words; a time zone means something to cron fields only."""
    if schedule.get("cron"):
        return f"{schedule['cron']} {schedule.get('timezone') or ''}".strip()
    if schedule.get("every"):
        return f"every {format_duration(parse_duration(schedule['every']))}"
    if isinstance(schedule.get("after"), list):
        return "after " + ", ".join(one["task"] for one in schedule["after"])
    if schedule.get("after"):
        return f"{format_duration(parse_duration(schedule['after']))} after its last run"
    return f"at {short_time(schedule['at'])}" if schedule.get("at") else json.dumps(schedule)


@tasks.command(epilog=examples("taskman tasks show nightly", "taskman tasks show nightly --json > nightly.json"))
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def show(name: str, as_json: bool) -> None:
    """Show a task."""
    with session() as client, known_task(client, name):
        task = client.task(name)
    if as_json:
        print_json(task)
    else:
        fields((key, _text(value)) for key, value in task.items())
        notice(f"run it: taskman run {name}")


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@tasks.command(
    epilog=examples(
        "taskman tasks create -f nightly.toml",
        'echo \'{"name": "hello", "type": "shell", "params": {"argv": ["date"]}}\' | taskman tasks create -f -',
    )
)
@click.option(
    "-f",
    "--file",
    "file",
    required=True,
    metavar="FILE|-",
    help="JSON, or TOML in a .toml file; -: JSON from standard input.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the task as one JSON document.")
def create(file: str, as_json: bool) -> None:
    """Create a task from a file."""
    body = object_from(file)
    with session() as client:
        task = client.create_task(body)
    if as_json:
        print_json(task)
    notice(f"task {task['name']} is saved\n  run it: taskman run {task['name']}")


@tasks.command("next", epilog=examples("taskman tasks next nightly", "taskman tasks next nightly -n 30 --json"))
@click.argument("name")
@click.option("-n", "count", type=click.IntRange(1, 100), default=10, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def show_next(name: str, count: int, as_json: bool) -> None:
    """Show when a task is due next, over all its schedules."""
    with session() as client, known_task(client, name):
        items = client.next_of(name, count)
    if as_json:
        print_json({"items": items})
    elif items:
        rows = (
            (_wall(one["local"]), remaining(one["at"]), str(one["schedule"] + 1), "; ".join(one["notes"]))
            for one in items
        )
        table(("DUE", "IN", "SCHEDULE", "NOTES"), rows, whole=("DUE",))
    else:
        notice(f"task {name} is not due: it has no schedule that the clock drives, or is switched off")


def _wall(text: str) -> str:
    """An instant on the clock of its schedule: `Tue 2026-11-24 02:30:00 +01:00`."""
    moment = datetime.fromisoformat(text)
    return f"{moment:%a %Y-%m-%d %H:%M:%S} {moment.isoformat()[-6:]}"


@tasks.command(epilog=examples("taskman tasks export nightly --as crontab", "taskman tasks export > tasks.json"))
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option(
    "--as", "form", type=click.Choice(["json", "crontab"]), default="json", show_default=True, help="What to write."
)
@click.option("--system", is_flag=True, help="A crontab with the user column of /etc/crontab.")
def export(names: tuple[str, ...], form: str, system: bool) -> None:
    """Write tasks as JSON, or as far as that goes as a crontab."""
    from .crontabs import written

    with session() as client:
        found = [_fetch(client, name) for name in names] or list(client.tasks(limit=1000))
    if form == "crontab":
        click.echo(written(found, system=system), nl=False)
    else:
        print_json({"tasks": list(map(definition_of, found))})


def _fetch(client: Client, name: str) -> Document:
    with known_task(client, name):
        return client.task(name)


@tasks.command(epilog=examples("taskman tasks delete nightly"))
@click.argument("name")
def delete(name: str) -> None:
    """Delete a task."""
    with session() as client, known_task(client, name):
        client.delete_task(name)
    notice(f"task {name} is deleted")
