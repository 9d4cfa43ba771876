"""`taskman tasks`: saved tasks."""

from __future__ import annotations

import json
from datetime import datetime
from itertools import islice

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


@tasks.command(epilog=examples("taskman tasks pause nightly"))
@click.argument("name")
def pause(name: str) -> None:
    """Switch the schedules of a task off; what runs goes on."""
    with session() as client, known_task(client, name):
        client.pause_task(name)
    notice(f"task {name} is paused\n  go on: taskman tasks resume {name}")


@tasks.command(epilog=examples("taskman tasks resume nightly"))
@click.argument("name")
def resume(name: str) -> None:
    """Switch the schedules of a task on; they owe nothing of the meantime."""
    with session() as client, known_task(client, name):
        task = client.pause_task(name, paused=False)
    notice(f"task {name} goes on; next due: {_due(task.get('next_at'))}")


@tasks.command(epilog=examples("taskman tasks skip nightly"))
@click.argument("name")
@click.option("--schedule", type=click.IntRange(1), help="Which of its schedules; default: the one that is due first.")
def skip(name: str, schedule: int | None) -> None:
    """Let the next due instant of a task pass."""
    with session() as client, known_task(client, name):
        done = client.skip_next(name, None if schedule is None else schedule - 1)
    notice(f"task {name} skips {short_time(done['skipped'])}; next due: {_due(done['next_at'])}")


def _due(at: str | None) -> str:
    return f"{short_time(at)} (in {remaining(at)})" if at else "never"


@tasks.command(
    "backfill",
    epilog=examples(
        "taskman tasks backfill nightly --from 2026-12-01T00:00Z --to 2026-12-03T00:00Z --dry-run",
        "taskman tasks backfill nightly --from 2026-12-01T00:00Z --to 2026-12-03T00:00Z --yes",
    ),
)
@click.argument("name")
@click.option("--from", "since", required=True, metavar="INSTANT", help="The first instant, with its offset.")
@click.option("--to", required=True, metavar="INSTANT", help="The last instant, with its offset.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document; does not ask.")
def run_past(name: str, since: str, to: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Run due instants of the past that have had no run."""
    with session() as client, known_task(client, name):
        found = client.backfill(name, since, to, dry_run=True)
        if not as_json:
            times = "once" if found["count"] == 1 else f"{found['count']:,} times"
            notice(f"task {name} was due {times}{_between(found)}")
        if not dry_run and found["count"]:
            if not yes and not as_json:
                click.confirm("run them, except those that have run?", abort=True, err=True)
            found = client.backfill(name, since, to)
            if not as_json:
                notice(
                    f"{found['created']} of them are queued now, the others had run\n  taskman runs list --task {name}"
                )
    if as_json:
        print_json(found)


def _between(found: Document) -> str:
    if found["count"] < 2:
        return f", {short_time(found['first'])}" if found["count"] else ""
    return f", from {short_time(found['first'])} to {short_time(found['last'])}"


@tasks.command(epilog=examples("taskman tasks ledger nightly", "taskman tasks ledger nightly -n 500 --jsonl"))
@click.argument("name")
@click.option("-n", "count", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many entries.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option("--jsonl", "as_lines", is_flag=True, help="One JSON object a line.")
def ledger(name: str, count: int, as_json: bool, as_lines: bool) -> None:
    """Show what became of each due instant of a task, newest first."""
    with session() as client, known_task(client, name):
        found = list(islice(client.ledger(name, limit=count), count))
    if as_lines:
        print_jsonl(found)
    elif as_json:
        print_json({"items": found})
    elif found:
        table(("DUE", "OUTCOME", "TIMES", "SCHEDULE", "RUN"), map(_outcome, found), whole=("DUE", "RUN"))
    else:
        notice(f"task {name} has not been due yet: taskman tasks next {name}")


def _outcome(entry: Document) -> tuple[str, ...]:
    due = short_time(entry["fire_time"])
    if entry["since"]:
        due = f"{short_time(entry['since'])} to {due}"
    reason = f" ({entry['reason']})" if entry["reason"] else ""
    return due, entry["outcome"] + reason, str(entry["count"]), str(entry["schedule"] + 1), entry["run"] or ""


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
