"""A reader of server-sent events that does what a browser's EventSource does, and keeps what it was told."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx2
from topology.site import Site


@dataclass(frozen=True, slots=True)
class Told:
    """One event."""

    id: str
    event: str
    data: str


class Follower(threading.Thread):
    """Follows a stream through the balancer; whenever it ends, asks again with the last id that it has seen.

    `servers` are the addresses that it has been connected to, in order; `told` every event. Ends with an event `eof`,
    or when it is closed.
    """

    def __init__(self, site: Site, path: str) -> None:
        super().__init__(daemon=True)
        self._site, self._path = site, path
        self._closed = threading.Event()
        self._socket: socket.socket | None = None
        self.servers: list[str] = []
        self.told: list[Told] = []
        self.refused: list[int] = []

    def run(self) -> None:
        with self._site.client() as http:
            while not self._closed.is_set() and not self._is_over():
                with suppress(httpx2.TransportError):
                    self._follow(http)

    def _is_over(self) -> bool:
        return bool(self.told) and self.told[-1].event == "eof"

    def _follow(self, http: httpx2.Client) -> None:
        headers = {"Accept": "text/event-stream"}
        if last := next((told.id for told in reversed(self.told) if told.id), ""):
            headers["Last-Event-ID"] = last
        with http.stream("GET", self._path, headers=headers) as reply:
            self._socket = reply.extensions["network_stream"].get_extra_info("socket")
            if reply.status_code != 200:
                self.refused.append(reply.status_code)
                return
            self.servers.append(reply.headers["X-Served-By"])
            fields: dict[str, str] = {}
            for line in reply.iter_lines():
                fields = self._take(line, fields)

    def _take(self, line: str, fields: dict[str, str]) -> dict[str, str]:
        if line:
            name, _, value = line.partition(":")
            return {**fields, name: value.removeprefix(" ")}
        if "data" in fields or "event" in fields:
            self.told.append(Told(fields.get("id", ""), fields.get("event", "message"), fields.get("data", "")))
        return {}

    def close(self) -> None:
        """Hang up, if it has not ended by itself, and wait for that."""
        self._closed.set()
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self.join(20)
        assert not self.is_alive()


def run_of(site: Site, command: str, **more: Any) -> str:
    """A new run of a command; its id."""
    with site.client() as http:
        reply = http.post("/runs", json={"type": "shell", "params": {"command": command}, **more})
    assert reply.status_code == 201, reply.text
    return str(reply.json()["id"])
