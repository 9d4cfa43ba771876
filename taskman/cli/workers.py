"""`taskman workers`: who works."""

from __future__ import annotations

import click

from .group import NounGroup, examples
from .output import print_json, short_time, table
from .session import session

__all__ = ["workers"]


@click.group(cls=NounGroup, epilog=examples("taskman workers list"))
def workers() -> None:
    """List the workers that are there."""


@workers.command("list", epilog=examples("taskman workers list", "taskman workers list --json"))
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def list_workers(as_json: bool) -> None:
    """List the workers, with their slots and task types."""
    with session() as client:
        found = client.workers()
    if as_json:
        print_json({"items": found})
        return
    rows = (
        (one["name"], f"{one['running']} of {one['slots']}", ", ".join(one["types"]), short_time(one["last_seen"]))
        for one in found
    )
    table(("WORKER", "BUSY", "TYPES", "SEEN"), rows)
