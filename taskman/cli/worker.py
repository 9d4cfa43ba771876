"""`taskman worker`: be a worker of a server on another machine."""

from __future__ import annotations

from typing import Any

import click

from ..config import Config, load
from ..place import find_server
from .group import examples

__all__ = ["worker"]

DRAIN_S = 30.0


@click.command(
    epilog=examples(
        "taskman worker --server https://tasks.example.com --token-file /etc/taskman/token",
        "taskman worker --slots 8 --queue reports --label gpu=yes",
    )
)
@click.option("--server", metavar="URL", help="Base URL of the server.")
@click.option("--token", metavar="TOKEN", help="Token; better in TASKMAN_TOKEN, which no process list shows.")
@click.option("--token-file", metavar="FILE", help="File that holds the token.")
@click.option("--ca-file", metavar="FILE", help="Authorities whose certificates the server may have.")
@click.option("--name", metavar="NAME", help="What people call this worker.")
@click.option("--slots", type=click.IntRange(min=1), metavar="N", help="How many runs it executes at a time.")
@click.option("--queue", "queues", multiple=True, metavar="Q", help="Serve this queue; may repeat. Else: all of them.")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="Have this label; may repeat.")
@click.option("--type", "types", multiple=True, metavar="T", help="Serve this task type; may repeat. Else: all it has.")
@click.option(
    "--allow-callable",
    "allow_callables",
    multiple=True,
    metavar="PATTERN",
    help="Functions that python runs may call without @task, such as 'myapp.tasks:*'; may be repeated.",
)
@click.option("--drain-timeout", metavar="30s", help="How long runs may finish when the worker is to stop.")
@click.option("--data-dir", metavar="DIR", help="Directory of the worker's identity and its spool.")
def worker(**flags: Any) -> None:
    """Execute runs for a server, over HTTP(S) alone.

    It needs no Redis and no open port, and stays when the server goes away and comes back. Ctrl-C or SIGTERM lets what
    runs finish for a while; a second one stops at once.
    """
    for name in ("queues", "labels", "types", "allow_callables"):
        flags[name] = ",".join(flags[name]) or None
    config = load({("worker_name" if name == "name" else name): value for name, value in flags.items()})
    place = find_server(config).require_token()
    from ..node import Options, main  # what executes runs: not for the commands that only ask a server

    options = Options(
        url=place.url,
        token=place.token,
        ca_file=place.ca_file,
        name=config.worker_name,
        slots=config.slots,
        queues=config.queues,
        types=config.types,
        drain_timeout_s=_drain_s(config),
    )
    main(config, options)


def _drain_s(config: Config) -> float:
    """A worker's runs may be long; a server's restart should not be."""
    return DRAIN_S if config.origin["drain_timeout"] == "default" else config.drain_timeout
