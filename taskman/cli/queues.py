"""`taskman queues`: what waits where, and stopping it."""

from __future__ import annotations

import click

from .group import NounGroup, examples
from .output import notice, print_json, table
from .session import session

__all__ = ["queues"]


@click.group(cls=NounGroup, epilog=examples("taskman queues list", "taskman queues pause slow"))
def queues() -> None:
    """List, pause and resume queues."""


@queues.command("list", epilog=examples("taskman queues list", "taskman queues list --json"))
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def list_queues(as_json: bool) -> None:
    """List the queues that runs have been in."""
    with session() as client:
        found = client.queues()
    if as_json:
        print_json({"items": found})
    else:
        rows = ((q["name"], str(q["depth"]), str(q["running"]), "paused" if q["paused"] else "") for q in found)
        table(("QUEUE", "WAITING", "RUNNING", "STATE"), rows)


@queues.command(epilog=examples("taskman queues pause slow"))
@click.argument("name", metavar="Q")
def pause(name: str) -> None:
    """Start nothing more from a queue; what runs goes on."""
    with session() as client:
        client.pause_queue(name, paused=True)
    notice(f"queue {name} is paused\n  go on: taskman queues resume {name}")


@queues.command(epilog=examples("taskman queues resume slow"))
@click.argument("name", metavar="Q")
def resume(name: str) -> None:
    """Start what waits in a queue again."""
    with session() as client:
        client.pause_queue(name, paused=False)
    notice(f"queue {name} goes on")
