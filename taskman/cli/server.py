"""`taskman up` and `taskman server`: start a server in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ..config import Address, load, parse_bind
from .group import examples

__all__ = ["server", "up"]


def _options(command: Callable[..., int]) -> Callable[..., int]:
    """The options of both commands."""
    for option in (
        click.option("--data-dir", metavar="DIR", help="Directory of the embedded Redis, keys and tokens."),
        click.option("--workers", type=click.IntRange(min=0), metavar="N", help="Slots of the local worker; 0: none."),
        click.option("--bind", metavar="HOST:PORT", help="Address and port to listen on; commas between several."),
        click.option(
            "--port", type=click.IntRange(0, 65535), metavar="PORT", help="Port to listen on; 0: any free one."
        ),
        click.option(
            "--allow-callable",
            multiple=True,
            metavar="PATTERN",
            help="Functions that python runs may call without @task, such as 'myapp.tasks:*'; may be repeated.",
        ),
    ):
        command = option(command)
    return command


@click.command(epilog=examples("taskman up", "taskman up --port 9000 --workers 8 --no-open"))
@_options
@click.option("--no-open", is_flag=True, help="Do not open a browser.")
def up(no_open: bool, **flags: Any) -> int:
    """Start everything in one process, with an embedded Redis if none is configured.

    Prints the address and a link that signs you in once. Ctrl-C stops it.
    """
    return _serve(flags, open_browser=not no_open, everything=True)


@click.command(epilog=examples("taskman server --bind 0.0.0.0:8080", "taskman server --workers 0"))
@_options
def server(**flags: Any) -> int:
    """Start a server with local workers.

    Any number of servers may share one Redis (TASKMAN_REDIS_URL).
    """
    return _serve(flags, open_browser=False, everything=False)


def _serve(flags: dict[str, Any], *, open_browser: bool, everything: bool) -> int:
    port = flags.pop("port")
    if port is not None:
        if flags["bind"]:
            raise click.UsageError("give --port or --bind, not both: --bind HOST:PORT has a port already")
        flags["bind"] = ",".join(str(Address(place.host, port)) for place in parse_bind(load().bind))
    flags["allow_callables"] = ",".join(flags.pop("allow_callable")) or None
    config = load(flags)
    parse_bind(config.bind)
    from ..server import main  # the web server and all: not for the commands that only ask one

    return main(config, open_browser=open_browser, up=everything)
