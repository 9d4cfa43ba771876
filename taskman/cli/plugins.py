"""`taskman plugins`: what is installed here, what is wrong with it, and a beginning for a new one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from ..errors import InvalidInput
from ..plugins import PluginInfo, discover
from ..scaffold import make_plugin
from .group import NounGroup, examples
from .output import Cell, notice, print_json, styled, table

__all__ = ["plugins"]


@click.group(cls=NounGroup, epilog=examples("taskman plugins list", "taskman plugins new greet"))
def plugins() -> None:
    """List the plugins installed here, or begin a new one."""


@plugins.command("list", epilog=examples("taskman plugins list", "taskman plugins list --json"))
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def list_plugins(as_json: bool) -> None:
    """List the plugins of this Python environment; no server is asked."""
    registry = discover()
    if as_json:
        print_json({"items": [asdict(one) for one in registry.plugins]})
        return
    table(("PLUGIN", "TASK TYPES", "DISTRIBUTION", "STATE"), map(_row, registry.plugins), whole=("PLUGIN", "STATE"))
    for one in registry.broken:
        notice(f"\n{styled(one.name, err=True, bold=True)} is out of order: {one.error}")


def _row(one: PluginInfo) -> tuple[Cell, ...]:
    state = ("out of order", "red") if one.error else ("ready", "green")
    return one.name, ", ".join(one.task_types), f"{one.distribution} {one.version}", state


@plugins.command(epilog=examples("taskman plugins new greet", "taskman plugins new greet --directory ~/src"))
@click.argument("name", metavar="NAME")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    metavar="DIR",
    help="Where to put it. Default: here.",
)
def new(name: str, directory: Path) -> None:
    """Make a plugin to begin with: a distribution with one task type, its tests, and a README."""
    try:
        made = make_plugin(name, directory)
    except InvalidInput as error:
        raise click.UsageError(str(error)) from None
    notice(
        f"made {made}\n"
        f"  try it:      pip install -e '{made}[test]' && pytest {made}\n"
        f"  see it here: taskman plugins list\n"
        f"  then restart the server: taskman up"
    )
