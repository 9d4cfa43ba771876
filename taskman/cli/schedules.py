"""`taskman schedules`: what a cron expression means, without a server."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from ..config import load, local_timezone
from .group import NounGroup, examples
from .output import notice, print_json, styled, table

if TYPE_CHECKING:
    from ..model.preview import Coming, Preview

__all__ = ["schedules"]


@click.group(cls=NounGroup, epilog=examples("taskman schedules preview '30 2 * * 1-5' --timezone Europe/Berlin"))
def schedules() -> None:
    """Explain cron expressions and tell when they fire."""


@schedules.command(
    epilog=examples(
        "taskman schedules preview '30 2 * * 1-5'",
        "taskman schedules preview '0 */15 8-17 * * *' --timezone America/New_York -n 20",
        "taskman schedules preview '30 2 * * *' --from 2027-03-27",
    )
)
@click.argument("cron", metavar="CRON", nargs=-1, required=True)
@click.option("--timezone", metavar="ZONE", help="An IANA zone such as Europe/Berlin; else the one that is set.")
@click.option("-n", "count", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many.")
@click.option("--from", "since", metavar="TIME", help="Look from there on, not from now; local time, or RFC 3339.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def preview(cron: tuple[str, ...], timezone: str | None, count: int, since: str | None, as_json: bool) -> None:
    """Say in words when a cron expression fires, and the next times, with what is strange about them.

    Needs no server.
    """
    zone = timezone or load().timezone or local_timezone()
    found = _look(" ".join(cron), zone, count, since)
    if as_json:
        print_json(found.to_json())
        return
    click.echo(f"{found.text}.\n")
    here = datetime.now().astimezone().tzname() or "LOCAL"
    table((zone.upper(), f"HERE ({here})", "UTC", "NOTES"), [_row(one) for one in found.items], whole=(zone.upper(),))
    for warning in found.warnings:
        notice(styled(f"note: {warning}", err=True, fg="yellow"))


def _look(cron: str, zone: str, count: int, since: str | None) -> Preview:
    from ..errors import InvalidInput
    from ..model.instants import parse_instant
    from ..model.preview import preview
    from ..model.schedule import Schedule
    from ..model.validation import validate
    from .typed import instant

    since_ms = time.time_ns() // 1_000_000 if since is None else parse_instant(instant(since))
    try:
        schedule = validate(Schedule, {"cron": cron, "timezone": zone})
    except InvalidInput as error:
        raise click.UsageError(error.faults[0].detail) from None
    found = preview(schedule.settled(zone, since_ms), since_ms, count)
    if not found.items:
        raise click.UsageError(f"'{cron}' does not fire within ten years")
    return found


def _row(one: Coming) -> tuple[str, ...]:
    local = one.local
    own = datetime.fromtimestamp(one.at_ms / 1000)
    utc = datetime.fromtimestamp(one.at_ms / 1000, UTC)
    return (f"{local:%a %Y-%m-%d %H:%M:%S}", f"{own:%a %H:%M:%S}", f"{utc:%a %H:%M:%S}", "; ".join(one.notes))
