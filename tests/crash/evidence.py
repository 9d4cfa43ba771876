"""What is known once the faults are over: the tasks' own marks, what the API and Redis say, and what still lives."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import redis

__all__ = [
    "Evidence",
    "LedgerLine",
    "Mark",
    "Process",
    "Snapshot",
    "processes_with",
    "read_ledger",
    "read_marks",
    "read_runs",
]

PREFIX = "tm:{0}:"
# A key waiting:<permit> lists the lines of those who wait; a line has blanks in its name, and the runs in it.
INDEXES = ("state:*", "ready:*", "waiting:* *", "permit:*", "live:*", "delayed", "leases")

# One script, so that nothing moves between the runs and the indexes they should be in.
_SNAPSHOT = """
local P, runs, indexes = KEYS[1], {}, {}
for _, key in ipairs(redis.call('KEYS', P .. 'run:*')) do
  if redis.call('TYPE', key).ok == 'hash' then
    table.insert(runs, {string.sub(key, #P + 5), redis.call('HGET', key, 'state')})
  end
end
for _, pattern in ipairs(ARGV) do
  for _, key in ipairs(redis.call('KEYS', P .. pattern)) do
    local zset = redis.call('TYPE', key).ok == 'zset'
    local members = zset and redis.call('ZRANGE', key, 0, -1) or redis.call('SMEMBERS', key)
    table.insert(indexes, {string.sub(key, #P + 1), members})
  end
end
return {runs, indexes}
"""


@dataclass(frozen=True, slots=True)
class Mark:
    """A line that a run's own command wrote: `start`, `beat` or `end` of an execution."""

    kind: str
    run_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Process:
    """A process of this machine."""

    pid: int
    parent: int
    command: str
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """The outcome of a due instant, or of a range of missed ones (epoch ms, both ends included)."""

    first_ms: int
    last_ms: int
    outcome: str
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One instant of Redis: the state of each run, and the members of each index that names runs."""

    states: dict[str, str]
    indexes: dict[str, list[str]]

    @classmethod
    def take(cls, connection: redis.Redis) -> Snapshot:
        """Read it in one script."""
        runs, indexes = connection.eval(_SNAPSHOT, 1, PREFIX, *INDEXES)
        return cls(
            {run.decode(): state.decode() for run, state in runs},
            {name.decode(): [one.decode() for one in members] for name, members in indexes},
        )

    def places_of(self, *prefixes: str) -> dict[str, list[str]]:
        """For each run the indexes with these prefixes that hold it."""
        places: dict[str, list[str]] = defaultdict(list)
        for name, members in self.indexes.items():
            if name.startswith(prefixes):
                for member in members:
                    places[member].append(name)
        return places


@dataclass(kw_only=True)
class Evidence:
    """All that the checker judges. `runs` and `logs` by id; `period_ms` is that of the schedule in the ledger.

    `killed`: runs whose process was killed, which may fail by that signal. `cut`: runs that were under way while
    Redis was full, whose logs may miss something.
    """

    acknowledged: set[str]
    marks: list[Mark] = field(default_factory=list)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    expected_logs: dict[str, str] = field(default_factory=dict)
    ledger: list[LedgerLine] = field(default_factory=list)
    period_ms: int = 1000
    snapshot: Snapshot = field(default_factory=lambda: Snapshot({}, {}))
    leftovers: list[str] = field(default_factory=list)
    room: dict[str, int] = field(default_factory=dict)
    killed: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)


def read_marks(path: Path) -> list[Mark]:
    """The marks in the order in which they were written."""
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [Mark(kind, run_id, int(attempt)) for kind, run_id, attempt, *_ in lines]


def read_runs(client: httpx2.Client) -> Iterator[dict[str, Any]]:
    """Every run with its attempts and its history."""
    cursor: str | None = None
    while True:
        page = client.get("/runs", params={"limit": 1000, **({"cursor": cursor} if cursor else {})}).json()
        for item in page["items"]:
            yield client.get(f"/runs/{item['id']}").json()
        cursor = page["next_cursor"]
        if cursor is None:
            return


def read_ledger(connection: redis.Redis, task: str) -> list[LedgerLine]:
    """The outcomes of the task's due instants, the oldest first."""
    lines = []
    for member in connection.zrange(f"{PREFIX}task:{task}:ledger", 0, -1):
        at, outcome, _, what, *span = member.decode().split(" ")
        if span:
            lines.append(LedgerLine(int(what), int(at), outcome))
        else:
            lines.append(LedgerLine(int(at), int(at), outcome, what))
    return lines


def processes_with(**environment: str | None) -> list[Process]:
    """The processes that have these variables in their environment, the oldest first; None: with any value."""
    found = []
    for pid in sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        process = _process(pid)
        if process is not None and pid != os.getpid():
            given = process.environment
            if all(name in given and value in (None, given[name]) for name, value in environment.items()):
                found.append(process)
    return found


def _process(pid: int) -> Process | None:
    place = Path(f"/proc/{pid}")
    try:
        parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        words = (place / "environ").read_bytes().decode(errors="replace").split("\0")
        command = (place / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
    except OSError:
        return None
    return Process(pid, parent, command, {name: value for name, _, value in (word.partition("=") for word in words)})
