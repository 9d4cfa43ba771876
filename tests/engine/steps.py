"""The steps of a walk: what clients, workers and servers do, the stale and the mistaken ones among them.

Each step takes its choices from `pick`, so that a random generator and a shrinking one can both drive it. The plainest
choice stands first in every list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from engine.oracle_run import WAITING, OracleRun
from engine.task_oracle import SchedulePlan
from engine.twin import Twin

from taskman.model.admission import Node, signature_for
from taskman.model.ids import scheduled_run_id
from taskman.model.misfire import Span
from taskman.model.progress import Progress
from taskman.model.run import RunSpec
from taskman.model.states import State
from taskman.store.logs import Chunk
from taskman.store.runs import Outcome, Submission
from taskman.store.tasks import Due, Fire, Firing

T = TypeVar("T")

WORKERS = ("w1", "w2", "w3")
SIGNATURES = ("shell|a|", "shell|b|", "http|a|gpu=yes")
TASKS = ("one", "two")
LEASE_MS = 20_000
EVERY_MS = 300_000
FOR_EVER = 2**53
UNKNOWN = "r0-yzzzzzzzzzzzzzzzzzzzzzz"
PERMITS: tuple[dict[str, int], ...] = (
    {},
    {"limit/db": 1},
    {"limit/db": 2},
    {"limit/db": 1, "limit/net": 1},
    {"limit/net": 2, "limit/db": 1},
    {"limit/net": 1},
    {"limit/net": 3},
)
CHAINS: tuple[tuple[tuple[str, str], ...], ...] = (
    (),
    (("one", "success"),),
    (("two", "always"), ("one", "always")),
    (("one", "failure"),),
    (("two", "300000"),),
    (("one", "0"),),
    (),
)
IDEMPOTENCY = (("d1", "b1"), ("d1", "b2"), ("d2", "b1"))
REASONS = {"failed": ("error", "exit", "timeout"), "retry": ("error", "timeout")}


class Pick(Protocol):
    def __call__(self, options: Sequence[T], /) -> T: ...


def rarely(pick: Pick) -> bool:
    return pick((False,) * 7 + (True,))


def some(pick: Pick, options: Sequence[T], most: int) -> list[T]:
    return [pick(options) for _ in range(pick(range(1, most + 1)))]


def a_spec(pick: Pick, task: str | None) -> RunSpec:
    permits = pick((PERMITS[0], *PERMITS)) if task is None else pick(PERMITS)
    type_, queue, labels = pick((SIGNATURES[0], *SIGNATURES)).split("|")
    return RunSpec(
        type=type_,
        place=pick(("any",) * 5 + ("all",)),
        params={},
        queue=queue,
        requires={"gpu": "yes"} if labels else {},
        task=task,
        priority=pick((0, 0, 0, 1, -1)),
        start_deadline_s=pick((None, None, None, 30.0, 90.0)),
        deadline_s=pick((None, None, None, 60.0, 240.0)),
        max_lost=pick((3, 3, 0, 1)),
        lost_grace_s=pick((20.0, 20.0, 0.0, 60.0)),
        permits={f"task/{task}": 1 + (task == "two"), **permits} if task else permits,
        group=f"task/{task}" if task else None,
        unique=pick((None,) * 8 + ("aa:active", "bb:pending", "cc:600000", "bb:active", "cc:active")),
    )


def a_submission(twin: Twin, pick: Pick) -> Submission:
    known = list(twin.oracle.runs)
    twin.made += 1
    return Submission(
        pick(known) if known and rarely(pick) and rarely(pick) else f"r0-{twin.made * 7919 % 99991:023d}",
        a_spec(pick, pick((None, None, *TASKS))),
        pick((0, 0, 0, 1_000, 60_000, -5_000)) + twin.now,
        pick((None, *IDEMPOTENCY)) if rarely(pick) else None,
        pick(("reject", "return")),
        pick((None, "skip", "replace")),
        pick((0, 0, 0, 5)),
    )


def submit(twin: Twin, pick: Pick) -> None:
    submissions = [a_submission(twin, pick) for _ in range(pick((1, 1, 1, 2, 4)))]
    twin.submit(submissions, pick(("test", "user:ann bee")))


def claim(twin: Twin, pick: Pick) -> None:
    served, worker = pick((SIGNATURES, SIGNATURES, SIGNATURES[:1], SIGNATURES[1:])), pick(WORKERS)
    placed = [sig for sig in sorted(twin.oracle.signatures) if sig not in SIGNATURES]
    node = Node(worker, frozenset({"shell", "http"}), {"gpu": "yes"}, 9, 0)
    pinned = [sig for sig in (signature_for(node, one) for one in placed) if sig]
    twin.claim(worker, pick((1, 2, 3, 10)), [*served, *pinned], LEASE_MS)


def expand(twin: Twin, pick: Pick) -> None:
    """Mostly one whose turn it is; or any, by a server that has seen it long ago."""
    placed = [run.id for run in twin.oracle.runs.values() if run.state is State.QUEUED and run.is_placed]
    run_id = pick(placed) if placed and not rarely(pick) else a_run(twin, pick)
    twin.expand(run_id, pick((WORKERS, WORKERS, WORKERS[:2], WORKERS[:1], ())))


def abandon(twin: Twin, pick: Pick) -> None:
    children = [run.id for run in twin.oracle.runs.values() if run.spec.is_child and not run.is_final]
    twin.abandon(some(pick, [*children, a_run(twin, pick), UNKNOWN], 3))


def held(twin: Twin, worker: str) -> list[tuple[str, int]]:
    """What a worker really holds."""
    return [(run.id, run.attempt) for run in twin.oracle.runs.values() if run.holds and run.worker == worker]


def a_worker(twin: Twin, pick: Pick) -> str:
    """Mostly one that holds something."""
    busy = [worker for worker in WORKERS if held(twin, worker)]
    return pick(WORKERS if not busy or rarely(pick) else busy)


def believed(twin: Twin, pick: Pick, worker: str) -> list[tuple[str, int]]:
    """What a worker believes it holds: mostly that, but also old attempts, what others hold now, and nonsense."""
    mine = held(twin, worker)
    others = [(run.id, run.attempt) for run in twin.oracle.runs.values() if run.holds and run.worker != worker]
    old = [(run_id, attempt) for run_id, attempt, _ in twin.assigned[-12:]]
    wrong = [(run_id, attempt - 1) for run_id, attempt in mine + others] + [(UNKNOWN, 1)]
    if mine and not rarely(pick):
        return some(pick, mine, 3)
    return some(pick, pick([one for one in (others, old, wrong) if one]), 3)


def an_outcome(pick: Pick, run_id: str, attempt: int) -> Outcome:
    outcome = pick(("succeeded", "failed", "retry", "retry", "released", "lost", "cancelled"))
    return Outcome(
        run_id,
        attempt,
        outcome,
        pick(REASONS[outcome]) if outcome in REASONS else None,
        pick((None, {"exit": 1}, ["ü"])),
        pick((None, "it broke")),
        pick((0.0, 1.0, 45.0)),
    )


def finish(twin: Twin, pick: Pick) -> None:
    worker = a_worker(twin, pick)
    twin.finish(worker, [an_outcome(pick, *one) for one in believed(twin, pick, worker)])


def extend(twin: Twin, pick: Pick) -> None:
    worker = a_worker(twin, pick)
    twin.extend(worker, believed(twin, pick, worker), LEASE_MS)


def heartbeat(twin: Twin, pick: Pick) -> None:
    worker = a_worker(twin, pick)
    twin.extend(worker, held(twin, worker), LEASE_MS)


def adopt(twin: Twin, pick: Pick) -> None:
    """A worker executes what Redis has forgotten that it claimed; or says so of what it should not."""
    runs, worker = twin.oracle.runs.values(), pick(WORKERS)
    waiting = [(run.id, run.attempt + 1) for run in runs if run.state in WAITING]
    ahead = [(run.id, run.attempt + 1) for run in runs if run.holds]
    options = [one for one in (waiting, waiting, ahead) if one]
    twin.adopt(worker, [*(some(pick, pick(options), 2) if options else []), *believed(twin, pick, worker)], LEASE_MS)


def append_log(twin: Twin, pick: Pick) -> None:
    worker = a_worker(twin, pick)
    run_id, attempt = believed(twin, pick, worker)[0]
    first, count = pick(range(1, 5)), pick(range(3))
    chunks = [Chunk(seq, twin.now, "out", seq, b"x" * pick((1, 65, 4_000))) for seq in range(first, first + count)]
    twin.append_log(run_id, attempt, worker, chunks)


def progress(twin: Twin, pick: Pick) -> None:
    worker = a_worker(twin, pick)
    reports = (Progress(0), Progress(1, 3, "ü"), Progress(0.5, 1))
    twin.progress(worker, [(*one, pick(reports)) for one in believed(twin, pick, worker)])


def a_run(twin: Twin, pick: Pick) -> str:
    """Mostly one that is not final."""
    live = [run.id for run in twin.oracle.runs.values() if not run.is_final]
    options = list(twin.oracle.runs) if not live or rarely(pick) else live
    return pick(options) if options else UNKNOWN


def cancel(twin: Twin, pick: Pick) -> None:
    twin.cancel(a_run(twin, pick), pick(("test", "watchdog")), pick((False, True)))


def promote(twin: Twin, pick: Pick) -> None:
    twin.promote(pick((1000, 1, 2)))


def reclaim(twin: Twin, pick: Pick) -> None:
    """What has run out, as a server saw it; another may have been there first, and the clock may have gone back."""
    runs = twin.oracle.runs.values()
    expired = [run.id for run in runs if run.holds and run.lease_end <= twin.now]
    doubtful = some(pick, [a_run(twin, pick), UNKNOWN], 3) if rarely(pick) else []
    twin.reclaim("", expired + doubtful)


def reclaim_from(twin: Twin, pick: Pick) -> None:
    """A worker is known to be gone: the candidates are everybody's leases."""
    twin.reclaim(pick(WORKERS), [run.id for run in twin.oracle.runs.values() if run.holds] + [a_run(twin, pick)])


def expire(twin: Twin, pick: Pick) -> None:
    runs = twin.oracle.runs.values()
    limits = [("start", run.id, run.start_by) for run in runs] + [("whole", run.id, run.end_by) for run in runs]
    due = [f"{kind} {run_id}" for kind, run_id, limit in limits if limit is not None and limit <= twin.now]
    doubtful = [f"{pick(('start', 'whole'))} {a_run(twin, pick)}"] if rarely(pick) else []
    twin.expire(due + doubtful)


def pause_queue(twin: Twin, pick: Pick) -> None:
    twin.pause_queue(pick(("a", "b")), pick(("resumed", "resumed", "resumed", "paused")))


def forget(twin: Twin, pick: Pick) -> None:
    """Retention: by age, by number, and by number for a task; some of the candidates may stay. One run at any age is
    what somebody deletes."""
    task, runs = pick(("", "", *TASKS)), twin.oracle.runs.values()
    mine = sorted(run.id for run in runs if not task or run.spec.task == task)[:5]
    families = [[run.id, *run.children] for run in runs if run.children and run.is_final]
    if families and not task and pick((False, True)):
        mine = pick([pick(families), pick(families)[1:]]) + mine
    if task:
        twin.forget("task", pick((0, 2)), task, mine)
    elif pick((False, False, False, True)):
        twin.forget("age", FOR_EVER, "", mine[:1])
    elif pick((False, False, True)):
        twin.forget("count", pick((0, 10)), "", mine)
    else:
        twin.forget("age", twin.now - pick((0, 60_000)), "", [*mine, UNKNOWN])


def instant(twin: Twin, number: int) -> int:
    """On a coarse grid, so that the same instants come again when a task is saved anew."""
    return (twin.now // EVERY_MS + number) * EVERY_MS


def save_task(twin: Twin, pick: Pick) -> None:
    name = pick(TASKS)
    known = twin.tasks.tasks.get(name)
    revisions: tuple[int | str, ...] = ("", "", known.revision if known else 0, 0, 7)
    revision, numbers = pick(revisions), pick((("0", "1"), ("0",), ()))
    plans = [a_plan(twin, pick, number) for number in numbers]
    twin.save_task(name, revision, f"definition of {name}", pick((1, 1, 1, 0)), plans)


def a_plan(twin: Twin, pick: Pick, number: str) -> SchedulePlan:
    due = pick((instant(twin, pick((1, 0, 0, -1, -1))),) * 4 + (None,))
    skips = None if due is None else pick((None, None, due - EVERY_MS))
    mark, most = pick((("", None), ("aa", 2), ("bb", 3)))
    return SchedulePlan(number, due, skips, mark, most, pick(CHAINS))


def delete_task(twin: Twin, pick: Pick) -> None:
    twin.delete_task(pick(TASKS))


def fire(twin: Twin, pick: Pick) -> None:
    twin.fire([a_fire(twin, pick) for _ in range(pick((1, 1, 2, 3)))])


def a_fire(twin: Twin, pick: Pick) -> Fire:
    firing = [name for name, task in twin.tasks.tasks.items() if task.cursors]
    name = pick(TASKS if not firing or rarely(pick) else firing)
    task = twin.tasks.tasks.get(name)
    schedule, due = pick(list(task.cursors.items())) if task and task.cursors else ("0", instant(twin, 0))
    if rarely(pick):
        due -= EVERY_MS
    if due > twin.now and pick((True, False)):
        twin.now = due
    late = pick((0, 0, 0, 2 * EVERY_MS))
    next_ms = pick((due + late + EVERY_MS, due + late + EVERY_MS, None))
    instants = pick(((due + late,), (due + late,), (due + late, due + late + 1000), ()))
    overlap = pick(("skip", "replace", None))
    return Fire(
        due=Due(name, int(schedule), due),
        revision=(task.revision if task else 1) - rarely(pick),
        next_ms=next_ms,
        skips_ms=None if next_ms is None else pick((None, None, next_ms - EVERY_MS)),
        is_over=rarely(pick),
        mark=task.fired[schedule][0] if task and schedule in task.fired else pick(("", "aa", "bb")),
        spans=[Span(pick(("missed", "skipped")), due, due + late - EVERY_MS, 2, pick((None, "requested")))]
        if late
        else [],
        runs=[
            Firing(
                fire_time_ms=at,
                due_ms=at + pick((0, 0, EVERY_MS)),
                run_id=scheduled_run_id(0, name, schedule, at),
                spec=a_spec(pick, name),
                overlap=overlap,
            )
            for at in instants
        ],
    )


def repeat(twin: Twin, pick: Pick) -> None:
    """A message that was sent already comes again, later."""
    if twin.calls:
        twin.make(replace(pick(twin.calls[-8:]), now=twin.now))


def forget_key(twin: Twin, pick: Pick) -> None:
    periods = [f"unique:{digest}" for digest, (_, lasts) in twin.oracle.unique.items() if lasts]
    names = periods + [f"idem:{key}" for key in twin.oracle.idempotent]
    if names:
        twin.forget_key(pick(names))


def wait(twin: Twin, pick: Pick) -> None:
    twin.now += pick((1, 100, 1_000, 5_000, 20_000, 40_000, 120_000, -2_000))


def read(twin: Twin, pick: Pick) -> None:
    twin.read()


Step = Callable[[Twin, Any], None]

# How often each is taken, relative to the others.
WEIGHTS: dict[Step, int] = {
    submit: 18,
    claim: 16,
    expand: 6,
    abandon: 1,
    finish: 14,
    wait: 14,
    extend: 5,
    heartbeat: 4,
    adopt: 1,
    append_log: 5,
    progress: 3,
    cancel: 3,
    promote: 5,
    reclaim: 6,
    reclaim_from: 2,
    expire: 5,
    pause_queue: 2,
    save_task: 4,
    delete_task: 1,
    fire: 5,
    repeat: 4,
    forget: 3,
    forget_key: 1,
    read: 1,
}

__all__ = ["WEIGHTS", "OracleRun", "Pick", "Step"]
