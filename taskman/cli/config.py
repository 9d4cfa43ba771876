"""`taskman config`: the settings in force."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import platformdirs

from ..config import SETTINGS, Config, load
from .group import NounGroup, examples
from .output import notice, print_json, table

__all__ = ["config"]

_SECRET = frozenset({"admin_token", "token", "secret_key"})
_PASSWORD = re.compile(r"(?<=://)([^:@/]*):\S*@|(?<=password=)[^&,]*")


@click.group(cls=NounGroup, epilog=examples("taskman config list", "taskman config path"))
def config() -> None:
    """Show the settings in force and where they come from."""


@config.command("list", epilog=examples("taskman config list", "TASKMAN_BIND=:9000 taskman config list --json"))
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def list_settings(as_json: bool) -> None:
    """List every setting: its value, where that comes from, and what it is for."""
    loaded = load()
    items = [_item(loaded, setting.name, setting.variable, setting.help) for setting in SETTINGS]
    if as_json:
        print_json({"items": items})
    else:
        rows = [(i["name"], i["value"], i["origin"], i["variable"], i["help"]) for i in items]
        table(("NAME", "VALUE", "FROM", "VARIABLE", "HELP"), rows, whole=("NAME", "FROM", "VARIABLE"))


def _item(loaded: Config, name: str, variable: str, purpose: str) -> dict[str, str]:
    value = loaded.directory if name == "data_dir" else loaded.values[name]
    return {
        "name": name,
        "value": _shown(name, value),
        "origin": loaded.origin[name],
        "variable": variable,
        "help": purpose,
    }


def _shown(name: str, value: Any) -> str:
    """The value as text, without what must stay secret."""
    if value is None or value == "":
        return ""
    if name in _SECRET:
        return "********"
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    return _PASSWORD.sub(lambda found: f"{found[1]}:********@" if found[1] is not None else "********", text)


@config.command(epilog=examples('"${EDITOR:-vi}" "$(taskman config path)"'))
def path() -> None:
    """Print where your own settings file is, or would be."""
    place = Path(platformdirs.user_config_dir("taskman", appauthor=False)) / "config.toml"
    click.echo(str(place))
    if not place.exists():
        notice("it does not exist yet; ./taskman.toml is read too, and goes before it")
