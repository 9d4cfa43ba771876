"""The invariants, judged over the evidence. Each rule yields a sentence for each thing that is wrong.

I1 an acknowledged run is final, or in exactly one place    I5 each due instant has one outcome, in order
I2 a run ends once                                          I6 the log is what the command wrote, see _is_whole
I3 executions of one run never overlap                      I7 no process outlives its run
I4 executions seen = attempts charged                       I10 indexes equal what a scan of the runs finds
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from crash.evidence import Evidence, LedgerLine, Mark, Snapshot

__all__ = ["check", "misplaced", "violations"]

FINAL = {"succeeded", "failed", "cancelled", "skipped"}
PLACES = {
    "queued": "ready:",
    "scheduled": "delayed",
    "blocked": "waiting:",
    "running": "leases",
    "cancelling": "leases",
}
# Attempts that ended so may have been executed no further than the claim.
UNSEEN = {"lost", "released"}
# Attempts that ended so have come to the end of their command.
WHOLE = {None, "exit"}
_SHOWN = 12
# What stands in a log where a worker was killed, and the next one went on with the run.
RESTARTED = "the worker was restarted here; a moment of output may be missing\n"


def check(evidence: Evidence) -> None:
    """Fail with everything that is wrong, each with the whole story of the run."""
    found = violations(evidence)
    more = f"\n… and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    assert not found, "\n" + "\n".join(found[:_SHOWN]) + more


def violations(evidence: Evidence) -> list[str]:
    """A text for each violation of each invariant."""
    return [f"{rule.__name__.strip('_')}: {one}" for rule in _RULES for one in rule(evidence)]


def misplaced(snapshot: Snapshot) -> list[str]:
    """What is wrong with where the runs are, at any moment: I1's places and I10."""
    states, places = snapshot.places_of("state:"), snapshot.places_of("ready:", "waiting:", "delayed", "leases")
    wrong = []
    for run_id, state in snapshot.states.items():
        if states.get(run_id) != [f"state:{state}"]:
            wrong.append(f"{run_id} is {state}, but the indexes that hold it are {states.get(run_id)}")
        held = places.get(run_id, [])
        if len(held) != (state in PLACES) or not all(one.startswith(PLACES[state]) for one in held):
            wrong.append(f"{run_id} is {state}, but the places that hold it are {held}")
    strangers = {*states, *places} - {*snapshot.states}
    wrong += [f"{one} is in {states.get(one)} {places.get(one)}, but is no run" for one in strangers]
    return wrong + _idle_holders(snapshot)


def _idle_holders(snapshot: Snapshot) -> list[str]:
    """Who holds a permit without running, or counts as live when it is over."""
    wrong = []
    for name, members in snapshot.indexes.items():
        allowed = {"permit": {"running", "cancelling"}, "live": {*PLACES}}.get(name.partition(":")[0])
        if allowed is not None:
            found = [(one, snapshot.states.get(one)) for one in members]
            wrong += [f"{one} is {state}, but in {name}" for one, state in found if state not in allowed]
    return wrong


def _i1_places(evidence: Evidence) -> Iterator[str]:
    yield from misplaced(evidence.snapshot)


def _i1_all_end(evidence: Evidence) -> Iterator[str]:
    for run_id in sorted(evidence.acknowledged):
        run = evidence.runs.get(run_id)
        if run is None:
            yield f"{run_id} was acknowledged, and is not in any list: {evidence.snapshot.states.get(run_id)}"
        elif not _ended_well(run, evidence):
            yield f"an acknowledged run did not end as it must: {_story(run_id, evidence)}"


def _ended_well(run: dict[str, Any], evidence: Evidence) -> bool:
    if run["state"] == "failed":
        return run["reason"] == "signal" and run["id"] in evidence.killed
    return run["state"] == "succeeded" and run["finished_at"] is not None and not run["suspect"]


def _i2_one_end(evidence: Evidence) -> Iterator[str]:
    for run_id, run in evidence.runs.items():
        finals = [index for index, entry in enumerate(run["history"]) if entry["state"] in FINAL]
        if finals and finals != [len(run["history"]) - 1]:
            yield f"a run ended more than once, or went on afterwards: {_story(run_id, evidence)}"


def _i3_no_overlap(evidence: Evidence) -> Iterator[str]:
    for run_id, marks in _by_run(evidence).items():
        if any(later.attempt < earlier.attempt for earlier, later in pairwise(marks)):
            yield f"two attempts were executed at the same time: {_story(run_id, evidence)}"


def _i3_limits_hold(evidence: Evidence) -> Iterator[str]:
    """No more of a task's attempts at once than it has room for; one without an end counts up to its last mark."""
    for task, room in evidence.room.items():
        marks = [mark for mark in evidence.marks if evidence.runs.get(mark.run_id, {}).get("task") == task]
        last = {(mark.run_id, mark.attempt): index for index, mark in enumerate(marks)}
        live: set[tuple[str, int]] = set()
        for index, mark in enumerate(marks):
            execution = (mark.run_id, mark.attempt)
            live.add(execution)
            if len(live) > room:
                yield f"{len(live)} runs of {task} at once, it has room for {room}: {sorted(live)}"
            if last[execution] == index:
                live.discard(execution)


def _i4_as_charged(evidence: Evidence) -> Iterator[str]:
    marks = Counter((mark.run_id, mark.attempt, mark.kind) for mark in evidence.marks)
    for run_id, run in evidence.runs.items():
        numbers = [attempt["number"] for attempt in run["attempts"]]
        if numbers != sorted(set(numbers)):
            yield f"an attempt's number was given twice: {_story(run_id, evidence)}"
        for attempt in run["attempts"]:
            starts, ends = marks[run_id, attempt["number"], "start"], marks[run_id, attempt["number"], "end"]
            least = 0 if attempt["state"] in UNSEEN else 1
            if not least <= starts <= 1:
                yield f"attempt {attempt['number']} was executed {starts} times: {_story(run_id, evidence)}"
            elif attempt["reason"] in WHOLE and (starts, ends) != (1, 1):
                yield f"attempt {attempt['number']} ended, but not its command: {_story(run_id, evidence)}"
    charged = {(run_id, one["number"]) for run_id, run in evidence.runs.items() for one in run["attempts"]}
    for run_id, number in {(mark.run_id, mark.attempt) for mark in evidence.marks} - charged:
        yield f"attempt {number} was executed, and is not in the history: {_story(run_id, evidence)}"


def _i5_ledger(evidence: Evidence) -> Iterator[str]:
    for earlier, later in pairwise(evidence.ledger):
        if later.first_ms != earlier.last_ms + evidence.period_ms:
            yield f"the instant after {earlier} is {later}"
    named = [line.run_id for line in evidence.ledger if line.run_id]
    for run_id, count in Counter(named).items():
        if count > 1 or run_id not in evidence.runs:
            yield f"the ledger names run {run_id} {count} times: {_story(run_id, evidence)}"
    yield from _unrecorded(evidence.ledger, evidence)


def _unrecorded(ledger: list[LedgerLine], evidence: Evidence) -> Iterator[str]:
    outcome_of = {line.run_id: line.outcome for line in ledger}
    oldest = min((line.run_id for line in ledger if line.run_id), default="")
    for run_id, run in evidence.runs.items():
        if run["trigger"] == "schedule" and run_id >= oldest:
            expected = "skipped" if run["state"] == "skipped" else "fired"
            if outcome_of.get(run_id) != expected:
                yield f"the ledger says {outcome_of.get(run_id)}, not {expected}: {_story(run_id, evidence)}"


def _i6_logs(evidence: Evidence) -> Iterator[str]:
    for run_id, log in evidence.logs.items():
        expected = evidence.expected_logs[run_id]
        if not _is_whole(log, expected) and run_id not in evidence.cut:
            yield f"the log is {log!r:.300}, its command wrote {expected!r:.300}: {_story(run_id, evidence)}"


def _is_whole(log: str, expected: str) -> bool:
    """Whether it is what was written, but for a moment's output at each note of a restarted worker."""
    first, *parts = log.split(RESTARTED)
    if not parts or not expected.startswith(first):
        return log == expected
    end = len(first)
    for part in parts[:-1]:
        if (start := expected.find(part, end)) < 0:
            return False
        end = start + len(part)
    return expected.endswith(parts[-1]) and end <= len(expected) - len(parts[-1])


def _i7_no_process(evidence: Evidence) -> Iterator[str]:
    yield from (f"it has outlived its run: {one}" for one in evidence.leftovers)


_RULES: tuple[Callable[[Evidence], Iterator[str]], ...] = (
    _i1_places, _i1_all_end, _i2_one_end, _i3_no_overlap, _i3_limits_hold, _i4_as_charged, _i5_ledger, _i6_logs,
    _i7_no_process,
)  # fmt: skip


def _by_run(evidence: Evidence) -> dict[str, list[Mark]]:
    grouped = defaultdict(list)
    for mark in evidence.marks:
        grouped[mark.run_id].append(mark)
    return grouped


def _story(run_id: str, evidence: Evidence) -> str:
    """All that is known of a run, for people."""
    run = evidence.runs.get(run_id)
    marks = " ".join(f"{mark.kind}/{mark.attempt}" for mark in evidence.marks if mark.run_id == run_id)
    if run is None:
        return f"{run_id}, unknown; marks: {marks}"
    history = "".join(
        f"\n      {entry['at']} {entry['state']} {entry['reason'] or ''} by {entry['by']}" for entry in run["history"]
    )
    return f"{run_id} task {run['task']}, error {run['error']!r:.200}, marks: {marks}{history}"
