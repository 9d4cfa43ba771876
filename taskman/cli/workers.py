"""`taskman workers`: who works, and who is to take nothing new."""

from __future__ import annotations

from collections.abc import Iterable

import click

from ..client import Document
from .group import NounGroup, examples
from .output import fields, notice, print_json, short_time, state, table
from .session import session

__all__ = ["workers"]

ANYWHERE = "all"


@click.group(cls=NounGroup, epilog=examples("taskman workers list", "taskman workers drain ID"))
def workers() -> None:
    """List, inspect, drain and resume workers."""


@workers.command("list", epilog=examples("taskman workers list", "taskman workers list --json"))
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def list_workers(as_json: bool) -> None:
    """List the workers, with their slots and task types."""
    with session() as client:
        found = client.workers()
    if as_json:
        print_json({"items": found})
        return
    if not found:
        notice("no worker is there\n  taskman worker --server URL")
        return
    table(("WORKER", "NAME", "STATE", "BUSY", "QUEUES", "TYPES", "SEEN"), map(_row, found))


def _row(one: Document) -> tuple[str | tuple[str, str], ...]:
    return (
        one["id"],
        one["name"] if one["name"] != one["id"] else "",
        state(one["state"]),
        _busy(one),
        _listed(one["queues"]),
        _listed(one["types"]),
        short_time(one["last_seen"]),
    )


@workers.command(epilog=examples("taskman workers show ID", "taskman workers show ID --json"))
@click.argument("worker_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def show(worker_id: str, as_json: bool) -> None:
    """Show everything about a worker."""
    with session() as client:
        one = client.worker(worker_id)
    if as_json:
        print_json(one)
        return
    types = (f"{name} {version}".strip() for name, version in one["types"].items())
    labels = (f"{name}={value}" for name, value in one["labels"].items())
    fields(
        (
            ("worker", one["id"]),
            ("name", one["name"]),
            ("state", state(one["state"])),
            ("busy", _busy(one)),
            ("types", _listed(types)),
            ("queues", _listed(one["queues"])),
            ("labels", ", ".join(labels)),
            ("version", one["version"]),
            ("address", one["address"] or "in the server"),
            ("last seen", short_time(one["last_seen"])),
        )
    )


@workers.command(epilog=examples("taskman workers drain ID"))
@click.argument("worker_id", metavar="ID")
def drain(worker_id: str) -> None:
    """Let a worker finish what it runs, and take nothing new."""
    with session() as client:
        one = client.drain_worker(worker_id, draining=True)
    notice(f"worker {one['id']} is draining, {_busy(one)} slots are busy\n  go on: taskman workers resume {one['id']}")


@workers.command(epilog=examples("taskman workers resume ID"))
@click.argument("worker_id", metavar="ID")
def resume(worker_id: str) -> None:
    """Let a worker take runs again."""
    with session() as client:
        one = client.drain_worker(worker_id, draining=False)
    notice(f"worker {one['id']} goes on")


def _busy(one: Document) -> str:
    return f"{one['running']} of {one['slots']}"


def _listed(names: Iterable[str] | None) -> str:
    return ANYWHERE if names is None else ", ".join(names)
