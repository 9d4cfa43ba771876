"""`taskman timers`: every schedule by its next due time, as systemctl list-timers has it."""

from __future__ import annotations

from itertools import islice

import click

from .group import examples
from .output import notice, print_json, remaining, short_time, table
from .session import session

__all__ = ["timers"]


@click.command(epilog=examples("taskman timers", "taskman timers --limit 5", "taskman timers --json"))
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def timers(limit: int, as_json: bool) -> None:
    """List every schedule by its next due time.

    LAST and PASSED are of the last run of the task, whatever started it.
    """
    with session() as client:
        found = list(islice(client.schedules(limit=min(limit, 1000)), limit))
    if as_json:
        print_json({"items": found})
    elif found:
        rows = (
            (short_time(one["next_at"]), remaining(one["next_at"]), *_last(one["last_at"]), one["task"], one["text"])
            for one in found
        )
        table(("NEXT", "LEFT", "LAST", "PASSED", "TASK", "SCHEDULE"), rows, whole=("TASK",))
    else:
        notice("nothing is due: no task that is switched on has a schedule")


def _last(text: str | None) -> tuple[str, str]:
    return short_time(text), remaining(text)
