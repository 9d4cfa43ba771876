"""`taskman runs`: what became of runs, stopping and forgetting them."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from typing import Any

import click

from ..client import Client, Document
from ..errors import TaskmanError, WaitTimedOut
from ..model.progress import Progress
from ..model.states import REASONS, State
from .exits import Exit, exit_code, report
from .group import NounGroup, examples
from .logs import logs
from .output import duration, fields, notice, print_json, print_jsonl, short_time, state, table
from .run import say_how_it_ended
from .session import known_run, session
from .typed import past, seconds

__all__ = ["runs"]

PAGE = 1000


@click.group(cls=NounGroup, epilog=examples("taskman runs list --state failed", "taskman runs show ID"))
def runs() -> None:
    """List, inspect, follow, cancel and delete runs."""


runs.add_command(logs)


@runs.command(
    "list",
    epilog=examples(
        "taskman runs list --state failed --task nightly",
        "taskman runs list --state queued --state running --json",
        "taskman runs list --since 2h --search 'disk full'",
        "taskman runs list --limit 5000 --jsonl",
    ),
)
@click.option(
    "--state", type=click.Choice([s.value for s in State]), multiple=True, help="Only this state. May repeat."
)
@click.option("--task", metavar="NAME", help="Only runs of this task.")
@click.option("--type", metavar="TYPE", help="Only runs of this task type.")
@click.option("--queue", metavar="Q", help="Only runs of this queue.")
@click.option("--worker", metavar="ID", help="Only runs that this worker has, or had last.")
@click.option("--since", metavar="2h|TIME", help="Only runs of the last two hours, or created from then on.")
@click.option("--until", metavar="2h|TIME", help="Only runs created before.")
@click.option("--search", "q", metavar="TEXT", help="Only runs with this text in a name, the error or the params.")
@click.option("--parent", metavar="ID", help="Only what this run with --place all became, one on each worker.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, metavar="N", help="So many at most."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option("--jsonl", "as_lines", is_flag=True, help="One JSON object a line.")
def list_runs(limit: int, as_json: bool, as_lines: bool, **filters: Any) -> None:
    """List runs, the newest first."""
    filters["state"] = list(filters["state"]) or None
    for name in ("since", "until"):
        filters[name] = past(filters[name]) if filters[name] else None
    with session() as client:
        found = (run.raw for run in islice(client.runs(limit=min(limit, PAGE), **filters), limit))
        if as_lines:
            print_jsonl(found)
        elif as_json:
            print_json({"items": list(found)})
        else:
            table(("ID", "TASK", "STATE", "REASON", "CREATED", "TOOK", "WORKER"), map(_row, found))


def _row(run: Document) -> tuple[str | tuple[str, str], ...]:
    return (
        run["id"],
        run["task"] or f"({run['type']})",
        state(run["state"]),
        run["reason"] or "",
        short_time(run["created_at"]),
        duration(run["started_at"], run["finished_at"]),
        run["worker"] or "",
    )


@runs.command(epilog=examples("taskman runs show ID", "taskman runs show ID --json"))
@click.argument("run_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def show(run_id: str, as_json: bool) -> None:
    """Show everything about a run."""
    with session() as client, known_run(run_id):
        run = client.get(run_id).raw
    if as_json:
        print_json(run)
    else:
        _describe(run)
        notice(f"its log: taskman logs {run_id}")


def _describe(run: Document) -> None:
    reason = run["reason"]
    fields(
        (
            ("run", run["id"]),
            ("task", f"{run['task']} ({run['type']})" if run["task"] else f"({run['type']})"),
            ("state", state(run["state"])),
            ("reason", f"{reason}: {REASONS[reason]}" if reason in REASONS else reason),
            ("error", run["error"] and str(run["error"])),
            ("progress", _progress(run)),
            ("queue", f"{run['queue']}, priority {run['priority']}"),
            ("attempt", f"{run['attempt']} of {run['max_attempts']}"),
            ("created", short_time(run["created_at"])),
            ("due", short_time(run["due_at"])),
            ("started", short_time(run["started_at"])),
            ("took", duration(run["started_at"], run["finished_at"])),
            ("params", json.dumps(run["params"], ensure_ascii=False)),
            ("result", None if run["result"] is None else json.dumps(run["result"], ensure_ascii=False)),
        )
    )
    if run.get("attempts"):
        click.echo()
        table(("ATTEMPT", "STATE", "REASON", "STARTED", "TOOK", "WORKER"), map(_attempt_row, run["attempts"]))


def _progress(run: Document) -> str | None:
    """How far it has come; of a run that succeeded that goes without saying."""
    found = run.get("progress")
    if not found or run["state"] == State.SUCCEEDED:
        return None
    return Progress(found["done"], found["total"], found["message"]).words


def _attempt_row(attempt: Document) -> tuple[str | tuple[str, str], ...]:
    return (
        str(attempt["number"]),
        state(attempt["state"]),
        attempt["reason"] or "",
        short_time(attempt["started_at"]),
        duration(attempt["started_at"], attempt["finished_at"]),
        attempt["worker"] or "",
    )


@runs.command(epilog=examples("taskman runs wait ID", "taskman runs wait ID --timeout 5m"))
@click.argument("run_id", metavar="ID")
@click.option("--timeout", metavar="5m", help="Give up after this long, and exit with 7.")
@click.option("--json", "as_json", is_flag=True, help="Print the run as one JSON document.")
def wait(run_id: str, timeout: str | None, as_json: bool) -> int:
    """Wait until a run is final, and exit with 0 if it succeeded, with 6 if not."""
    limit_s = seconds(timeout) if timeout else None
    with session() as client, known_run(run_id):
        try:
            run = client.wait(run_id, limit_s)
        except WaitTimedOut as error:
            if as_json:
                print_json(client.get(run_id).raw)
            raise WaitTimedOut(f"{error}\n  wait on: taskman runs wait {run_id}") from None
    if as_json:
        print_json(run.raw)
    return say_how_it_ended(run)


@runs.command(epilog=examples("taskman runs why ID", "taskman runs why ID --json"))
@click.argument("run_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def why(run_id: str, as_json: bool) -> None:
    """Say why a run is not running."""
    with session() as client, known_run(run_id):
        answer = client.why(run_id)
    if as_json:
        print_json(answer)
        return
    for one in answer["reasons"]:
        click.echo(f"{one['code']}: {one['detail']}")
    if not answer["reasons"]:
        click.echo(f"nothing keeps it: it is {answer['state']}")


@runs.command(epilog=examples("taskman runs cancel ID", "taskman runs cancel --force ID ID"))
@click.argument("run_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Without a grace time to clean up.")
def cancel(run_ids: tuple[str, ...], force: bool) -> int:
    """Cancel runs: with every process they have started."""

    def cancel_one(client: Client, run_id: str) -> str:
        client.cancel(run_id, force=force)
        return f"run {run_id} is being cancelled\n  see it end: taskman runs wait {run_id}"

    return _each(run_ids, cancel_one)


@runs.command(epilog=examples("taskman runs delete ID", "taskman runs delete ID ID"))
@click.argument("run_ids", metavar="ID...", nargs=-1, required=True)
def delete(run_ids: tuple[str, ...]) -> int:
    """Delete runs that are over, with their logs."""

    def delete_one(client: Client, run_id: str) -> str:
        client.delete(run_id)
        return f"run {run_id} is deleted"

    return _each(run_ids, delete_one)


def _each(run_ids: tuple[str, ...], act: Callable[[Client, str], str]) -> int:
    """Do it to each run, and say so; the exit code is that of the first that could not be done."""
    code: int = Exit.OK
    with session() as client:
        for run_id in run_ids:
            try:
                with known_run(run_id):
                    notice(act(client, run_id))
            except TaskmanError as error:
                report(error)
                code = code or exit_code(error)
    return code
