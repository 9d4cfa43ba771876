"""Lists of runs, newest first, a page at a time: by state, task and time from indexes, the rest by a bounded look."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from ..model.ids import id_at, instant_of
from ..model.run import Run, RunSpec
from ..model.states import State
from .connection import Connection
from .keys import Keys
from .replies import checked

__all__ = ["Filters", "Listing", "Page"]

MOST_LOOKED_AT = 5000
"""So many runs at most are looked at for one page."""
_BATCH, _SEARCHED = 200, 50
_SLACK_MS = 60_000
_EXACT = ("task", "type", "queue", "worker")


class Filters(TypedDict, total=False):
    """What runs of a list have in common. What is not given, or None, lets all through.

    `states`: any of them. `parent`: the children of that placed run; the runs of a task are those that were asked for,
    not their children. `worker`: the last one that had it.
    `since_ms` (included), `until_ms` (not included): when they were created; or the instant of their id, where that is
    more than a minute away, as of a late fire time or of a child.
    `text`: somewhere in the id, the names, the error or the params, in small or capital letters.
    """

    states: Sequence[State]
    task: str | None
    type: str | None
    queue: str | None
    parent: str | None
    worker: str | None
    since_ms: int | None
    until_ms: int | None
    text: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """Some runs, newest first; `next_cursor` leads to the next page."""

    runs: list[Run]
    next_cursor: str | None


class Listing:
    """Reads pages of one shard; `load` is how whole runs are read. Every call: StoreUnavailable.

    A page takes ids from the indexes that fit best, in turns, and of each run only the fields that the filters ask
    about; whole runs, which may be large, are read when they are known to be on the page.
    """

    def __init__(
        self, connection: Connection, keys: Keys, load: Callable[[Sequence[str]], Awaitable[list[Run]]]
    ) -> None:
        self._connection, self._keys, self._load = connection, keys, load

    async def page(self, filters: Filters, limit: int, cursor: str | None) -> Page:
        """See Runs.page."""
        bottom, top = self._bounds(filters, cursor)
        batch, found = _batch(filters, limit), list[str]()
        looked_at, is_end = 0, False
        while len(found) <= limit and looked_at < MOST_LOOKED_AT and not is_end:
            ids = await self._newest(self._indexes(filters), bottom, top, batch)
            found += await self._sift(ids, filters)
            looked_at, is_end = looked_at + len(ids), len(ids) < batch
            top = f"({ids[-1]}" if ids else top
        states = filters.get("states") or State  # asked again: a run may have gone on meanwhile
        runs = [run for run in await self._load(found[:limit]) if run.state in states]
        if len(found) > limit:
            return Page(runs, found[limit - 1])
        return Page(runs, None if is_end else top[1:])

    def _indexes(self, filters: Filters) -> list[str]:
        if parent := filters.get("parent"):
            return [self._keys.children(parent)]
        if task := filters.get("task"):
            return [self._keys.task_runs(task)]
        return [self._keys.state(state) for state in filters.get("states") or State]

    def _bounds(self, filters: Filters, cursor: str | None) -> tuple[str, str]:
        """The range of ids, which sort by time; an id is made before its run is, perhaps by another clock."""
        since_ms, until_ms = filters.get("since_ms"), filters.get("until_ms")
        bottom = "-" if since_ms is None else f"[{id_at(self._keys.shard, max(0, since_ms - _SLACK_MS))}"
        ends = [] if until_ms is None else [id_at(self._keys.shard, max(0, until_ms + _SLACK_MS))]
        ends += [cursor] if cursor else []
        return bottom, f"({min(ends)}" if ends else "+"

    async def _newest(self, indexes: Sequence[str], bottom: str, top: str, limit: int) -> list[str]:
        commands = [("ZREVRANGEBYLEX", index, top, bottom, "LIMIT", 0, limit) for index in indexes]
        replies = await self._connection.execute_many(commands)
        ids = {one.decode() for reply in replies if checked(reply) for one in reply}
        return sorted(ids, reverse=True)[:limit]

    async def _sift(self, ids: Sequence[str], filters: Filters) -> list[str]:
        """Those of the runs whose fields match."""
        fields = _fields(filters)
        if not fields or not ids:
            return list(ids)
        replies = await self._connection.execute_many([("HMGET", self._keys.run(run_id), *fields) for run_id in ids])
        known = ({name: value or b"" for name, value in zip(fields, checked(one), strict=True)} for one in replies)
        return [run_id for run_id, values in zip(ids, known, strict=True) if _matches(run_id, values, filters)]


def _batch(filters: Filters, limit: int) -> int:
    """How many runs to look at in a turn; few at a time of those whose params, up to a mebibyte each, are searched."""
    if filters.get("text"):
        return _SEARCHED
    return _BATCH if _fields(filters) else limit + 1


def _fields(filters: Filters) -> list[str]:
    """The fields of a run that decide whether it matches, where its being in the index is not enough."""
    is_narrowed = filters.get("task") or filters.get("parent")
    is_timed = filters.get("since_ms") is not None or filters.get("until_ms") is not None
    if filters.get("text"):
        return ["state", "sig", "task", "worker", "error", "spec", *(("history",) if is_timed else ())]
    wanted = {
        "history": is_timed,
        "state": is_narrowed and filters.get("states"),
        "task": filters.get("parent") and filters.get("task"),
        "sig": filters.get("type") or filters.get("queue"),
        "worker": filters.get("worker"),
    }
    return [name for name, is_wanted in wanted.items() if is_wanted]


def _matches(run_id: str, values: Mapping[str, bytes], filters: Filters) -> bool:
    """Whether what was read of the run, which is what the filters ask about, is as wanted."""
    facts, states, text = _facts(values), filters.get("states"), filters.get("text")
    asked = {name: wanted for name, wanted in filters.items() if name in _EXACT and wanted}
    if any(facts.get(name, wanted) != wanted for name, wanted in asked.items()):
        return False
    if states and "state" in facts and facts["state"] not in states:
        return False
    if "history" in values and not _is_in_time(run_id, values["history"], filters):
        return False
    return not text or any(text.casefold() in one.casefold() for one in _texts(run_id, facts, values["spec"]))


def _is_in_time(run_id: str, history: bytes, filters: Filters) -> bool:
    since_ms, until_ms, at_ms = filters.get("since_ms"), filters.get("until_ms"), instant_of(run_id)
    created_ms = int(history.partition(b" ")[0] or at_ms)
    if abs(created_ms - at_ms) <= _SLACK_MS:
        at_ms = created_ms
    return (since_ms is None or at_ms >= since_ms) and (until_ms is None or at_ms < until_ms)


def _facts(values: Mapping[str, bytes]) -> dict[str, str]:
    """What the fields say, by the names of the filters."""
    facts = {name: value.decode() for name, value in values.items() if name not in ("sig", "spec", "history")}
    if sig := values.get("sig", b"").decode():
        facts["type"], facts["queue"], _ = sig.split("|", 2)
    return facts


def _texts(run_id: str, facts: Mapping[str, str], spec: bytes) -> Iterator[str]:
    """What is searched for a text."""
    yield run_id
    yield from (fact for name, fact in facts.items() if name != "state")
    yield from _leaves(RunSpec.from_document(spec).params if spec else {})


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, one in value.items():
            yield name
            yield from _leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one)
    else:
        yield str(value)
