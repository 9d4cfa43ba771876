"""A program that submits runs whatever happens to the servers, and how its runs have ended."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx2
from harness import eventually
from topology.site import Site


class Submitter(threading.Thread):
    """Submits runs one after the other, each with a key, and repeats what has failed until it is acknowledged."""

    def __init__(self, site: Site, name: str, mark: Path) -> None:
        super().__init__(daemon=True)
        self._site, self._key, self._mark = site, name, mark
        self._enough = threading.Event()
        self.acknowledged: dict[str, str] = {}

    def run(self) -> None:
        with self._site.client() as http:
            while not self._enough.is_set():
                key = f"{self._key}-{len(self.acknowledged)}"
                run = None
                while run is None:
                    run = self._submit(http, key)
                self.acknowledged[key] = run

    def _submit(self, http: httpx2.Client, key: str) -> str | None:
        body = {"type": "shell", "params": {"command": f"echo {key} >> {self._mark}"}, "lost_grace": 1}
        try:
            reply = http.post("/runs", json=body, headers={"Idempotency-Key": key})
        except httpx2.TransportError:
            return None
        if reply.status_code >= 500:
            return None
        assert reply.status_code in (200, 201), reply.text
        return str(reply.json()["id"])

    def until_more(self, number: int) -> None:
        """Wait for so many more acknowledged runs."""
        wanted = len(self.acknowledged) + number
        eventually(lambda: len(self.acknowledged) >= wanted, f"{number} more runs", 60)

    def finish(self) -> None:
        """Submit no more."""
        self._enough.set()
        self.join(30)
        assert not self.is_alive()


def finished(site: Site, runs: Iterable[str]) -> list[dict[str, Any]]:
    """Those runs, when they are final."""
    with site.client() as http:
        return [http.get(f"/runs/{run}?wait=60").json() for run in runs]
