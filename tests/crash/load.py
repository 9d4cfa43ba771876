"""Load while things break: a client that repeats each request under its key until somebody acknowledges it."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from harness import Server

__all__ = ["LIMITED_ROOM", "TICK", "Kind", "Load", "kinds_of", "tasks_of"]

TICK = "tick"
LIMITED_ROOM = 2
# None of these may be used up by the faults; lost at the end of the lease, so that a test need not wait for more.
_PATIENT = {"max_lost": 100, "lost_grace": 0}
_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Kind:
    """A sort of run: what it executes, and what that writes. `{n}` in the log is the attempt."""

    name: str
    command: str
    log: str
    options: dict[str, Any]
    task: str | None = None

    def body(self) -> dict[str, Any]:
        """What to POST."""
        if self.task is not None:
            return {}
        return {"type": "shell", "params": {"command": self.command}, **_PATIENT, **self.options}

    @property
    def path(self) -> str:
        """Where to POST it."""
        return f"/tasks/{self.task}/runs" if self.task else "/runs"


def kinds_of(trace: Path) -> dict[str, Kind]:
    """The mix, by name. Each run leaves its marks in the file `trace`; what goes on and on ends with `trace`.enough."""
    words = '"$1" "$TASKMAN_RUN_ID" "$TASKMAN_ATTEMPT" "$(date +%s%N)"'
    mark = f"m() {{ printf '%s %s %s %s\\n' {words} >> {trace}; }}; m start; "
    retry = {"retry": {"max_attempts": 3, "backoff": {"kind": "fixed", "base": 0.2}}}
    count = 'i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo "line $i of attempt $TASKMAN_ATTEMPT"; done; '
    lines = "".join(f"line {number} of attempt {{n}}\n" for number in range(1, 301))
    step = 'for i in 1 2 3 4 5; do echo "step $i of $TASKMAN_ATTEMPT"; sleep 0.3; m beat; done; '
    steps = "".join(f"step {number} of {{n}}\n" for number in range(1, 6))
    beat = f"while [ $TASKMAN_ATTEMPT = 1 ] && [ ! -e {trace}.enough ]; do sleep 0.2; m beat; done; "
    first_fails = 'echo "try $TASKMAN_ATTEMPT"; if [ "$TASKMAN_ATTEMPT" = 1 ]; then m end; exit 7; fi; '
    made = [
        Kind("short", f'{mark}echo "hello from $TASKMAN_ATTEMPT"; m end', "hello from {n}\n", {}),
        Kind("slow", f"{mark}{step}m end", steps, {}),
        Kind("retried", f"{mark}{first_fails}m end", "try {n}\n", retry),
        Kind("talkative", f"{mark}{count}m end", lines, {}),
        Kind("limited", f"{mark}sleep 0.2; m end", "", {}, task="limited"),
        Kind("beating", f"{mark}{beat}m end", "", {}),
        Kind("stubborn", f"trap '' TERM; {mark}{beat}m end", "", {"grace": 60}),
        Kind("lasting", f"{mark}[ $TASKMAN_ATTEMPT -gt 1 ] || sleep 120; m end", "", {}),
        Kind(TICK, f"{mark}echo tick; m end", "tick\n", {}, task=TICK),
    ]
    return {kind.name: kind for kind in made}


def tasks_of(kinds: dict[str, Kind]) -> list[dict[str, Any]]:
    """The saved tasks that the mix needs: one with room for few, one that fires every second."""
    limited = {"name": "limited", "max_concurrency": LIMITED_ROOM, "overlap": "queue"}
    tick = {"name": TICK, "schedules": [{"every": "1s"}]}
    return [
        {**task, "type": "shell", "params": {"command": kinds[str(task["name"])].command}, **_PATIENT}
        for task in (limited, tick)
    ]


# Of ten runs so many are short, slow and so on.
_MIX = ("short", "slow", "short", "retried", "short", "limited", "short", "talkative", "slow", "short")


class Load:
    """A thread that submits runs to servers in turn, `rate` a second, until stopped.

    A request that is not answered with 200 or 201 is repeated, under the same key, at the next server: 503, a
    connection that fails, an answer that does not come. `acknowledged` are the ids, `refusals` the statuses counted.
    """

    def __init__(self, servers: Sequence[Server], kinds: dict[str, Kind], rate: float = 20.0) -> None:
        self.acknowledged: dict[str, str] = {}
        self.refusals: Counter[str] = Counter()
        self.impatient: list[str] = []
        self._clients = [server.client() for server in servers]
        self._kinds, self._pause_s = kinds, 1 / rate
        self._stop, self._abandoned = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> Load:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Finish the request under way, for as long as that takes, and stop."""
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), f"a request is not answered: {self.refusals}"
        self._close()

    def _close(self) -> None:
        for client in self._clients:
            client.close()

    def abandon(self) -> None:
        """Stop without an answer to the request under way."""
        self._abandoned.set()
        self._stop.set()
        self._thread.join(10)
        self._close()

    def _work(self) -> None:
        for name in itertools.cycle(_MIX):
            self._submit(self._kinds[name])
            if self._stop.wait(self._pause_s):
                return

    def _submit(self, kind: Kind) -> None:
        headers = {"Idempotency-Key": secrets.token_hex(8)}
        for client in itertools.cycle(self._clients):
            reply = self._try(client, kind, headers)
            if reply is not None:
                self.acknowledged[reply["id"]] = kind.name
                return
            if self._abandoned.wait(_PAUSE_S):
                return

    def _try(self, client: httpx2.Client, kind: Kind, headers: dict[str, str]) -> dict[str, Any] | None:
        try:
            reply = client.post(kind.path, json=kind.body(), headers=headers, timeout=5)
        except httpx2.TransportError as error:
            self.refusals[type(error).__name__] += 1
            return None
        if reply.status_code in (200, 201):
            return dict(reply.json())
        self.refusals[str(reply.status_code)] += 1
        if reply.status_code != 503 or "Retry-After" not in reply.headers:
            self.impatient.append(reply.text)
        return None
