"""The client that commands talk through, and what they say when a name is unknown to the server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from ..client import Client, check_health
from ..config import load
from ..errors import NotFound, TaskmanError
from ..place import find_server
from .group import retyped

__all__ = ["known_run", "known_task", "session"]

LOOKED_AT = 1000


def session() -> Client:
    """A client for the server that the settings name; to be closed by `with`."""
    place = find_server(load())
    if not place.token:
        check_health(place.url, place.ca_file)  # where no server is, a token would not help
    place.require_token()
    return Client(place.url, place.token, ca_file=place.ca_file, agent="taskman-cli")


@contextmanager
def known_task(client: Client, name: str, otherwise: str = "taskman tasks list") -> Iterator[None]:
    """Turn the server's 404 into a message with the nearest task; `otherwise` is the next command without one."""
    try:
        yield
    except NotFound:
        names = _task_names(client)
        if name in names:
            raise
        advice = retyped(name, names) or f"\n  {otherwise}"
        raise NotFound(f"there is no task '{name}'{advice}") from None


@contextmanager
def known_run(run_id: str) -> Iterator[None]:
    """Turn the server's 404 into a message that names the run and how to find it."""
    try:
        yield
    except NotFound:
        raise NotFound(f"there is no run '{run_id}'\n  taskman runs list") from None


def _task_names(client: Client) -> list[str]:
    try:
        return [task["name"] for task in islice(client.tasks(limit=LOOKED_AT), LOOKED_AT)]
    except TaskmanError:  # a token may run a task that it may not see
        return []
