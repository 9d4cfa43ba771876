"""What must hold in any snapshot of the shard, whatever led there; independent of the oracle's rules."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from itertools import pairwise

from engine.expected import Snapshot
from engine.oracle_run import HELD

from taskman.model.admission import Facts, hindrances
from taskman.model.run import HistoryEntry, Run, RunSpec
from taskman.model.states import EVENTS, FINAL, State

PLACES = {
    State.QUEUED: "ready",
    State.SCHEDULED: "delayed",
    State.BLOCKED: "waiting",
    State.RUNNING: "leases",
    State.CANCELLING: "leases",
}
ARROWS = {(source, target) for sources, target in EVENTS.values() for source in sources}


def check_invariants(snapshot: Snapshot, before: Snapshot) -> None:
    """Raises AssertionError with a sentence."""
    runs = {key[4:]: _run(key[4:], value) for key, value in snapshot.items() if _is_run(key)}
    places = _places(snapshot)
    permits = {key[7:]: members for key, members in snapshot.items() if key.startswith("permit:")}
    for run in runs.values():
        _check_place(run, places.pop(run.id, []))
        _check_permits(run, permits)
        if before.get(f"state:{run.state}", {}).get(run.id) is not None and run.is_final:
            assert snapshot[f"run:{run.id}"] == before[f"run:{run.id}"], f"{run.id} changed after its end"
    assert not places, f"indexes hold runs that do not exist: {dict(places)}"
    _check_holders(runs, permits)
    _check_turns(runs, permits)
    _check_uniqueness(runs, snapshot)
    _check_groups(runs, snapshot)
    _check_families(runs, snapshot)


def _is_run(key: str) -> bool:
    return key.startswith("run:") and not key.endswith((":log", ":children"))


def _run(run_id: str, fields: dict[str, str]) -> Run:
    names = ("spec", "state", "attempt", "due", "history", "worker", "suspect")
    return _parse(run_id, *(fields.get(name, "") for name in names))


@lru_cache(maxsize=10_000)
def _parse(run_id: str, spec: str, state: str, attempt: str, due: str, history: str, worker: str, suspect: str) -> Run:
    """Few runs change in a step, so this is worth remembering."""
    run = Run(
        id=run_id,
        spec=RunSpec.from_document(spec.encode()),
        state=State(state),
        attempt=int(attempt),
        worker=worker or None,
        due_ms=int(due),
        history=tuple(map(HistoryEntry.parse, history.splitlines())),
        suspect=bool(suspect),
    )
    _check_history(run)
    return run


def _places(snapshot: Snapshot) -> defaultdict[str, list[str]]:
    """Each run's indexes: its states, and ready, delayed, leases and lines."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for key, members in snapshot.items():
        is_line = key.startswith("waiting:") and " " in key
        if is_line or key.startswith(("state:", "ready:")) or key in ("delayed", "leases", "placed"):
            for run_id in members:
                places[run_id].append(key)
    return places


def _check_place(run: Run, places: list[str]) -> None:
    allowed = [f"state:{run.state}"]
    place = "placed" if run.spec.place == "all" and run.state in HELD else PLACES.get(run.state)
    found = sorted(key.partition(":")[0] for key in places if key not in allowed)
    assert places.count(allowed[0]) == 1, f"{run.id} is {run.state}, but in {places}"
    assert found == ([place] if place else []), f"{run.id} is {run.state}, but in {places}"
    if place == "ready":
        assert f"ready:{run.spec.signature}" in places
    assert not run.suspect or run.state in HELD, f"{run.id} is {run.state} and suspect"


def _check_history(run: Run) -> None:
    states = [None, *(entry.state for entry in run.history)]
    for arrow in pairwise(states):
        assert arrow in ARROWS, f"{run.id} went {arrow[0]} -> {arrow[1]}, which is no arrow"
    assert states[-1] == run.state, f"{run.id} is {run.state}, its history says {states[-1]}"
    assert sum(state in FINAL for state in states) == run.is_final, f"{run.id} ended more than once"
    assert sum(state is State.RUNNING for state in states) == len(run.attempts)
    assert len({one.number for one in run.attempts}) == len(run.attempts), f"{run.id} has an attempt twice"


def _check_permits(run: Run, permits: dict[str, set[str]]) -> None:
    held = {permit for permit, members in permits.items() if run.id in members}
    assert held == (set(run.spec.permits) if run.state in HELD else set()), f"{run.id} is {run.state}, holds {held}"


def _check_holders(runs: dict[str, Run], permits: dict[str, set[str]]) -> None:
    """More hold a permit than it has room for only when workers held more than Redis knew."""
    for permit, holders in permits.items():
        members = {run_id for run_id in holders if not _is_adopted(runs[run_id])}
        if not members:
            continue
        room = max(runs[run_id].spec.permits[permit] for run_id in members)
        assert len(members) <= room, f"{permit} is held by {len(members)}, it has room for {room}"


def _is_adopted(run: Run) -> bool:
    return next(entry.reason for entry in reversed(run.history) if entry.state is State.RUNNING) == "recovered"


def _check_turns(runs: dict[str, Run], permits: dict[str, set[str]]) -> None:
    """No lost wake-up: while a permit has room for a blocked run, one like it has been let out to take it."""
    holders = {permit: len(members) for permit, members in permits.items()}
    let_out = {
        (run.spec.signature, permit, room)
        for run in runs.values()
        if run.state is State.QUEUED and run.reason == "unblocked"
        for permit, room in run.spec.permits.items()
    }
    for run in runs.values():
        if run.state is not State.BLOCKED or hindrances(run, Facts(holders=holders))[0].code == "limit":
            continue
        turns = {(run.spec.signature, permit, room) for permit, room in run.spec.permits.items()}
        assert turns & let_out, f"{run.id} is blocked, but nothing keeps it: {run.spec.permits}, held {holders}"


def _check_uniqueness(runs: dict[str, Run], snapshot: Snapshot) -> None:
    owners: defaultdict[str, list[str]] = defaultdict(list)
    for run in runs.values():
        digest, _, lasts = (run.spec.unique or "").partition(":")
        if (lasts == "active" and not run.is_final) or (lasts == "pending" and not run.is_final and not run.attempt):
            owners[digest].append(run.id)
            assert snapshot.get(f"unique:{digest}") == run.id, f"{run.id} is {run.state} without its unique key"
    for digest, ids in owners.items():
        assert len(ids) == 1, f"{ids} have the unique key {digest} together"


def _check_groups(runs: dict[str, Run], snapshot: Snapshot) -> None:
    for key, members in snapshot.items():
        if key.startswith("live:"):
            expected = {run.id for run in runs.values() if run.spec.group == key[5:] and not run.is_final}
            assert members == expected, f"{key} holds {members}, live are {expected}"


def _check_families(runs: dict[str, Run], snapshot: Snapshot) -> None:
    """A placed run is under way exactly as long as one of its children is, and all of them are kept with it."""
    children: defaultdict[str, set[str]] = defaultdict(set)
    for run in runs.values():
        if run.spec.is_child:
            children[run.spec.parent or ""].add(run.id)
    for run in runs.values():
        mine = children.pop(run.id, set())
        assert set(snapshot.get(f"run:{run.id}:children", ())) == mine, f"{run.id} and its children differ"
        left = [child for child in mine if not runs[child].is_final]
        assert bool(left) == (run.spec.place == "all" and run.state in HELD), f"{run.id} is {run.state}, {left} are not"
    assert not children, f"the parents of {dict(children)} are gone"
