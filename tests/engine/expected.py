"""The oracle's runs and tasks as Redis should hold them: every key of the shard but the stream of events."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from engine.oracle import Oracle
from engine.oracle_run import OracleRun
from engine.task_oracle import OracleTask, TaskOracle

from taskman.model.states import State
from taskman.store.logs import Chunk

Snapshot = dict[str, Any]


def expected(tasks: TaskOracle) -> Snapshot:
    """Names without the prefix: hashes and strings as text, sorted sets as member to score, streams as lists."""
    oracle = tasks.runs
    found: Snapshot = defaultdict(dict)
    for run in oracle.runs.values():
        found[f"run:{run.id}"] = _hash(run)
        if run.is_placed and run.holds:
            left = sum(not child.is_final for child in oracle.children(run))
            found[f"run:{run.id}"]["left"] = str(left)
        found[f"state:{run.state}"][run.id] = 0
        if run.task:
            found[f"task:{run.task}:runs"][run.id] = 0
        for child in run.children:
            found[f"run:{run.id}:children"][child] = 0
        for key, score in _places(run):
            found[key][run.id] = score
        for kind, limit in (("start", run.start_by), ("whole", run.end_by)):
            if limit is not None:
                found["deadlines"][f"{kind} {run.id}"] = limit
    for name, task in tasks.tasks.items():
        _add_task(found, name, task)
    unfinished = Counter(run.task for run in oracle.runs.values() if run.task and not run.is_final)
    if unfinished:
        found["unfinished"] = {name: str(count) for name, count in unfinished.items()}
    if tasks.retired:
        found["retired"] = str(tasks.retired)
    return {**found, **_sets(oracle), **_strings(oracle), **_logs(oracle)}


def _hash(run: OracleRun) -> dict[str, str]:
    values = {
        "state": run.state,
        "attempt": run.attempt,
        "sig": run.sig,
        "spec": run.document,
        "due": run.due,
        "history": run.history,
        "worker": run.worker,
        "failures": run.failures,
        "lost": run.lost,
        "task": run.task or None,
        "opt": run.options or None,
        "priority": run.spec.priority or None,
        "suspect": 1 if run.suspect else None,
        "log": run.log_weight,
        "ending": run.ending or None,
        "result": run.result or None,
        "error": run.error or None,
        "progress": run.progress,
        **{f"result:{attempt}": result for attempt, result in run.results.items()},
    }
    return {name: str(value) for name, value in values.items() if value is not None}


def _places(run: OracleRun) -> list[tuple[str, int]]:
    """The index that the state demands, which is exactly one for a run that is not final."""
    if run.state is State.QUEUED:
        return [(f"ready:{run.sig}", run.score)]
    if run.state is State.SCHEDULED:
        return [("delayed", run.due)]
    if run.state is State.BLOCKED:
        return [(f"waiting:{run.waits_for} {run.spec.permits[run.waits_for]} {run.sig}", run.score)]
    return [("leases", run.lease_end)] if run.holds and not run.is_placed else []


def _add_task(found: Snapshot, name: str, task: OracleTask) -> None:
    known = {"revision": task.revision, "created": task.created, "updated": task.updated, "enabled": task.enabled}
    cursors = {f"cursor:{schedule}": due for schedule, due in task.cursors.items()}
    skips = {f"skips:{schedule}": first for schedule, first in task.skips.items()}
    fired = {f"fired:{schedule}": f"{mark} {count}" for schedule, (mark, count) in task.fired.items()}
    chains = {f"chain:{schedule}": " ".join(map(" ".join, chain)) for schedule, chain in task.chains.items()}
    met = {f"met:{schedule}:{above}": at for (schedule, above), at in task.met.items()}
    last = {f"last:{schedule}": at for schedule, at in task.last.items()}
    numbers = {key: str(value) for key, value in (known | cursors | skips | fired | chains | met | last).items()}
    for schedule, chain in task.chains.items():
        for above, on in chain:
            found[f"downstream:{above}"][f"{name} {schedule}"] = on
    found[f"task:{name}"] = {"definition": task.definition, **numbers}
    found["tasks"][name] = 0
    for schedule, due in task.cursors.items():
        found["schedules"][f"{name} {schedule}"] = due
    if task.ledger:
        found[f"task:{name}:ledger"] = dict(task.ledger)


def _sets(oracle: Oracle) -> Snapshot:
    found: dict[str, set[str]] = defaultdict(set)
    found["signatures"], found["paused"], found["unpacked"] = oracle.signatures, oracle.paused, oracle.unpacked
    for run in oracle.runs.values():
        if run.holds and run.is_placed:
            found["placed"].add(run.id)
        if run.holds:
            for permit in run.spec.permits:
                found[f"permit:{permit}"].add(run.id)
        if run.spec.group and not run.is_final:
            found[f"live:{run.spec.group}"].add(run.id)
        if run.state is State.BLOCKED:
            found[f"waiting:{run.waits_for}"].add(f"{run.spec.permits[run.waits_for]} {run.sig}")
    return {key: members for key, members in found.items() if members}


def _strings(oracle: Oracle) -> Snapshot:
    unique = {f"unique:{digest}": holder for digest, (holder, _) in oracle.unique.items()}
    return unique | {f"idem:{key}": value for key, value in oracle.idempotent.items()}


def _logs(oracle: Oracle) -> Snapshot:
    return {f"run:{run_id}:log": [*_entries(chunks)] for run_id, chunks in oracle.logs.items() if chunks}


def _entries(chunks: list[tuple[int, Chunk]]) -> Iterator[list[Any]]:
    """Stream entries; each knows its offset in its attempt."""
    offsets: Counter[int] = Counter()
    for attempt, one in chunks:
        values = {"t": one.at_ms, "s": one.stream, "l": one.first_line, "o": offsets[attempt], "b": one.data.decode()}
        yield [f"{attempt}-{one.seq}", [str(part) for pair in values.items() for part in pair]]
        offsets[attempt] += len(one.data)
