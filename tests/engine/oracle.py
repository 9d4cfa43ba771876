"""The store in plain Python: what every script must answer about runs, and what must be in Redis afterwards.

Nothing is kept twice here. An index is computed from the runs (see expected.py), so the oracle cannot contain the
contradictions that it looks for. Whether a permit has room is decided by `admission.full_permit`, so the walk also
proves that the claim script applies the same rule.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from urllib.parse import quote

from engine.oracle_run import WAITING, OracleRun

from taskman.model.admission import full_permit
from taskman.model.progress import Progress
from taskman.model.run import RunSpec
from taskman.model.states import State
from taskman.store.logs import Chunk
from taskman.store.runs import Outcome, Submission

AGEING_MS = 300_000
IDEMPOTENT_MS = 86_400_000
LIGHTEST, WORTH_COMPACTING = 64, 4096


class Oracle:
    """The runs of one shard. Each public method is one call of the script of that name, at `now`."""

    def __init__(self) -> None:
        self.now = 0
        self.runs: dict[str, OracleRun] = {}
        self.signatures: set[str] = set()
        self.paused: set[str] = set()
        self.unique: dict[str, tuple[str, int | None]] = {}
        self.idempotent: dict[str, str] = {}
        self.logs: dict[str, list[tuple[int, Chunk]]] = defaultdict(list)
        self.unpacked: set[str] = set()
        self.lines: list[str] = []
        self.published: list[tuple[str, str]] = []
        self._freed: set[str] = set()

    @contextmanager
    def call(self, now: int) -> Iterator[None]:
        """One script: afterwards, whoever waits for a permit that was passed on gets its turn."""
        self.now, self.lines, self.published, self._freed = now, [], [], set()
        yield
        for permit in self._freed:
            self._unblock(permit)

    # What the rules look at.

    def holders(self) -> Counter[str]:
        return Counter(permit for run in self.runs.values() if run.holds for permit in run.spec.permits)

    def live(self, group: str) -> list[OracleRun]:
        return [run for run in self.runs.values() if run.spec.group == group and not run.is_final]

    def unique_holder(self, spec: RunSpec) -> str | None:
        """The run that holds the key of such a run; one that was forgotten, only while a period lasts."""
        digest, _, lasts = (spec.unique or "").partition(":")
        holder = self.unique[digest][0] if digest in self.unique else None
        return holder if lasts.isdigit() or holder in self.runs else None

    def depth(self, queue: str) -> int:
        return sum(run.state is State.QUEUED and run.spec.queue == queue for run in self.runs.values())

    # One change of state.

    def _change(self, run: OracleRun, to: State, reason: str, by: str) -> None:
        run.state = to
        run.history += f"{self.now} {to} {reason} {run.attempt} {by}\n"
        self.tell(run, reason)
        if run.is_final:
            self._close(run)

    def tell(self, run: OracleRun, reason: str) -> None:
        words = (run.id, run.state, reason, run.attempt, run.worker or "-", run.spec.task or "-", run.sig)
        self.lines.append(" ".join(["run", *map(str, words)]))

    def _close(self, run: OracleRun) -> None:
        run.start_by = run.end_by = None
        self._forget_unique(run, "active")
        self._forget_unique(run, "pending")
        self.published.append((f"run:{run.id}:log", "end"))
        if (run.log_weight or 0) >= WORTH_COMPACTING:
            self.unpacked.add(run.id)
        run.log_weight = None

    def _forget_unique(self, run: OracleRun, while_: str) -> None:
        digest, lasts = run.unique
        if lasts == while_ and digest in self.unique and self.unique[digest][0] == run.id:
            del self.unique[digest]

    def _make_ready(self, run: OracleRun) -> None:
        run.score = self.now - run.spec.priority * AGEING_MS

    def _unblock(self, permit: str) -> None:
        held = self.holders()[permit]
        lines: dict[tuple[int, str], list[OracleRun]] = defaultdict(list)
        for run in self.runs.values():
            if run.state is State.BLOCKED and run.waits_for == permit:
                lines[run.spec.permits[permit], run.sig].append(run)
        for (room, _), waiting in lines.items():
            for run in sorted(waiting, key=lambda run: (run.score, run.id))[: max(0, room - held)]:
                self._change(run, State.QUEUED, "unblocked", "watchdog")

    def _unlease(self, run: OracleRun) -> None:
        run.suspect = False
        self._freed.update(run.spec.permits)

    def _end_waiting(self, run: OracleRun, to: State, reason: str, by: str) -> None:
        self._freed.update(run.spec.permits)
        self._change(run, to, reason, by)

    def _cancel(self, run: OracleRun, reason: str, by: str) -> None:
        if run.state is State.RUNNING:
            self._change(run, State.CANCELLING, reason, by)
        elif run.state in WAITING:
            self._end_waiting(run, State.CANCELLED, reason, by)

    # Coming into being.

    def submit(self, submissions: Sequence[Submission], by: str, now: int) -> list[tuple[str, str]]:
        with self.call(now):
            return [self._submit(one, quote(by)) for one in submissions]

    def _submit(self, one: Submission, by: str) -> tuple[str, str]:
        if one.id in self.runs:
            return "there", one.id
        key, body = one.idempotency or ("", "")
        if key in self.idempotent:
            known, known_body = self.idempotent[key].split(" ")
            return "replayed" if known_body == body else "mismatch", known
        if holder := self.unique_holder(one.spec):
            return "replayed" if one.on_conflict == "return" else "taken", holder
        if one.queue_limit and self.depth(one.spec.queue) >= one.queue_limit:
            return "full", one.id
        run = self.create(one.id, one.spec, one.due_ms, one.overlap, by)
        if key:
            self.idempotent[key] = f"{one.id} {body}"
        return "skipped" if run.state is State.SKIPPED else "created", one.id

    def create(self, run_id: str, spec: RunSpec, due: int, overlap: str | None, by: str) -> OracleRun:
        """A run comes into being, as skipped when it may not overlap."""
        run = OracleRun(run_id, spec, max(due, self.now))
        skipped = self.unique_holder(spec) is not None
        if spec.group and not skipped and overlap == "skip":
            skipped = len(self.live(spec.group)) >= spec.permits[spec.group]
        elif spec.group and not skipped and overlap == "replace":
            for other in self.live(spec.group):
                self._cancel(other, "replaced", by)
        self.runs[run_id] = run
        self.signatures.add(run.sig)
        if skipped:
            self._change(run, State.SKIPPED, "overlap", by)
            return run
        self._begin(run)
        self._change(run, State.SCHEDULED if due > self.now else State.QUEUED, "-", by)
        self._make_ready(run)
        if due > self.now:
            self.lines.append(f"due {due}")
        return run

    def _begin(self, run: OracleRun) -> None:
        digest, lasts = run.unique
        if digest:
            self.unique[digest] = (run.id, int(lasts) if lasts.isdigit() else None)
        if run.spec.start_deadline_s is not None:
            run.start_by = run.due + round(run.spec.start_deadline_s * 1000)
        if run.spec.deadline_s is not None:
            run.end_by = run.due + round(run.spec.deadline_s * 1000)

    # Being executed.

    def claim(
        self, worker: str, limit: int, signatures: Sequence[str], lease_ms: int, now: int
    ) -> list[tuple[str, int, int]]:
        claimed: list[tuple[str, int, int]] = []
        with self.call(now):
            served = [sig for sig in signatures if sig.split("|")[1] not in self.paused]
            ready = [run for run in self.runs.values() if run.state is State.QUEUED and run.sig in served]
            for run in sorted(ready, key=lambda run: (run.score, run.id)):
                if len(claimed) == limit:
                    break
                permit = full_permit(run.spec, self.holders())
                if permit is None:
                    self._start(run, worker, now + lease_ms)
                    claimed.append((run.id, run.attempt, run.failures or 0))
                else:
                    run.waits_for = permit
                    self._freed.update(run.spec.permits)
                    self._change(run, State.BLOCKED, "limit", f"worker:{worker}")
        return claimed

    def _start(self, run: OracleRun, worker: str, lease_end: int) -> None:
        run.attempt, run.worker, run.lease_end, run.start_by = run.attempt + 1, worker, lease_end, None
        self._change(run, State.RUNNING, "-", f"worker:{worker}")
        self._forget_unique(run, "pending")

    def adopt(self, worker: str, held: Sequence[tuple[str, int]], lease_ms: int, now: int) -> int:
        with self.call(now):
            return sum(self._adopt(self.runs.get(run_id), attempt, worker, now + lease_ms) for run_id, attempt in held)

    def _adopt(self, run: OracleRun | None, attempt: int, worker: str, lease_end: int) -> bool:
        if run is None or run.state not in WAITING or run.attempt >= attempt:
            return False
        run.attempt, run.worker, run.lease_end, run.start_by = attempt, worker, lease_end, None
        self._freed.update(run.spec.permits)
        self._change(run, State.RUNNING, "recovered", f"worker:{worker}")
        self._forget_unique(run, "pending")
        return True

    def extend(self, worker: str, held: Sequence[tuple[str, int]], lease_ms: int, now: int) -> list[str]:
        with self.call(now):
            return [self._extend(self._current(run_id, attempt, worker), now + lease_ms) for run_id, attempt in held]

    def _current(self, run_id: str, attempt: int, worker: str) -> OracleRun | None:
        """The run, if that is its attempt and worker and it is still held."""
        run = self.runs.get(run_id)
        return run if run and run.holds and (run.attempt, run.worker) == (attempt, worker) else None

    def _extend(self, run: OracleRun | None, lease_end: int) -> str:
        if run is None:
            return "drop"
        run.lease_end = lease_end
        if run.suspect:
            run.suspect = False
            self.tell(run, "resumed")
        return "cancel" if run.state is State.CANCELLING else "keep"

    def append_log(self, run_id: str, attempt: int, worker: str, chunks: Sequence[Chunk], now: int) -> int:
        with self.call(now):
            run = self._current(run_id, attempt, worker)
            if run is None:
                return -1
            run.log_weight = run.log_weight or 0
            last = max((one.seq for number, one in self.logs[run_id] if number == attempt), default=0)
            for one in chunks:
                if one.seq > last:
                    self.logs[run_id].append((attempt, one))
                    last, run.log_weight = one.seq, run.log_weight + max(LIGHTEST, len(one.data))
            self.published.append((f"run:{run_id}:log", f"{attempt}-{last}"))
            return last

    def progress(self, worker: str, reports: Sequence[tuple[str, int, Progress]], now: int) -> list[bool]:
        with self.call(now):
            return [self._progress(self._current(run_id, attempt, worker), one) for run_id, attempt, one in reports]

    def _progress(self, run: OracleRun | None, one: Progress) -> bool:
        if run is None:
            return False
        run.progress = f"{run.attempt} {self.now} {one.to_document()}"
        self.published.append((f"run:{run.id}:progress", str(run.attempt)))
        return True

    # Coming to an end.

    def finish(self, worker: str, outcomes: Sequence[Outcome], results: Mapping[int, str], now: int) -> list[str]:
        """`results` is the JSON of each outcome that has a result, by its position."""
        with self.call(now):
            return [self._finish(worker, one, results.get(number, "")) for number, one in enumerate(outcomes)]

    def _finish(self, worker: str, one: Outcome, result: str) -> str:
        run = self.runs.get(one.run_id)
        if run is None or (run.attempt, run.worker) != (one.attempt, worker):
            return "stale"
        if run.holds:
            self._settle(run, one, result, f"worker:{worker}")
        return run.state

    def _settle(self, run: OracleRun, one: Outcome, result: str, by: str) -> None:
        if one.outcome == "released":
            return self._give_back(run, "released", by)
        if one.outcome == "lost":
            return self._lose(run, by)
        if one.outcome == "retry" and run.state is State.RUNNING:
            return self._retry(run, one, result, by)
        if one.outcome == "cancelled":
            self._cancel(run, "requested", by)
        self._unlease(run)
        run.result, run.error = result or run.result, one.error or run.error
        if one.outcome in ("cancelled", "retry"):
            return self._end_cancelling(run, by)
        return self._change(run, State(one.outcome), one.reason or "-", by)

    def _retry(self, run: OracleRun, one: Outcome, result: str, by: str) -> None:
        self._unlease(run)
        run.failures = (run.failures or 0) + 1
        if result:
            run.results[run.attempt] = result
        run.worker, run.due = "", self.now + round(one.wait_s * 1000)
        self._change(run, State.SCHEDULED, one.reason or "-", by)
        self.lines.append(f"due {run.due}")

    def _end_cancelling(self, run: OracleRun, by: str) -> None:
        if run.ending:
            self._change(run, State.FAILED, run.ending, by)
        else:
            self._change(run, State.CANCELLED, "requested", by)

    def _give_back(self, run: OracleRun, reason: str, by: str) -> None:
        self._unlease(run)
        if run.state is State.CANCELLING:
            return self._end_cancelling(run, by)
        self._make_ready(run)
        run.worker = ""
        return self._change(run, State.QUEUED, reason, by)

    def _lose(self, run: OracleRun, by: str) -> None:
        if run.state is State.CANCELLING:
            return self._give_back(run, "lost", by)
        run.lost = (run.lost or 0) + 1
        if run.lost <= run.spec.max_lost:
            return self._give_back(run, "lost", by)
        self._unlease(run)
        times = f"{run.spec.max_lost + 1} times: every worker that held it went away"
        run.error = f"lost {times}" if run.spec.max_lost else "lost: its worker went away, and it may have worked"
        return self._change(run, State.FAILED, "lost", by)

    def cancel(self, run_id: str, by: str, force: bool, now: int) -> tuple[int, str]:
        with self.call(now):
            run = self.runs.get(run_id)
            if run is None:
                return 0, ""
            before = run.state
            self._cancel(run, "requested", quote(by))
            if force and run.state is State.CANCELLING:
                self.tell(run, "forced")
            return int(run.state is not before), run.state

    # What time and the watchdog bring.

    def promote(self, limit: int, now: int) -> int:
        """How many; the reply's other parts are in the indexes."""
        with self.call(now):
            delayed = [run for run in self.runs.values() if run.state is State.SCHEDULED and run.due <= now]
            for run in sorted(delayed, key=lambda run: (run.due, run.id))[:limit]:
                self._make_ready(run)
                self._change(run, State.QUEUED, "due", "scheduler")
            return len(delayed[:limit])

    def reclaim(self, worker: str, candidates: Sequence[str], now: int) -> tuple[int, int]:
        with self.call(now):
            found = [self._reclaim(worker, self.runs.get(run_id)) for run_id in candidates]
            return found.count("suspect"), found.count("lost")

    def _reclaim(self, worker: str, run: OracleRun | None) -> str:
        if run is None or not run.holds:
            return ""
        if worker:
            if run.worker != worker:
                return ""
            self._lose(run, f"worker:{worker}")
        elif run.lease_end > self.now:
            return ""
        elif not run.suspect:
            run.suspect, run.lease_end = True, self.now + round(run.spec.lost_grace_s * 1000)
            self.tell(run, "suspect")
            return "suspect"
        else:
            self._lose(run, "watchdog")
        return "lost"

    def expire(self, candidates: Sequence[str], now: int) -> int:
        with self.call(now):
            return sum(self._expire(*candidate.split(" ")) for candidate in candidates)

    def _expire(self, kind: str, run_id: str) -> bool:
        run = self.runs.get(run_id)
        if run is None:
            return False
        limit = run.start_by if kind == "start" else run.end_by
        if limit is None or limit > self.now:
            return False
        if kind == "start":
            run.start_by = None
        else:
            run.end_by = None
        if run.state in WAITING:
            self._end_waiting(run, State.FAILED, "expired" if kind == "start" else "deadline", "watchdog")
        elif run.state is State.RUNNING:
            run.ending = "deadline"
            self._change(run, State.CANCELLING, "deadline", "watchdog")
        else:
            return False
        return True

    def pause_queue(self, queue: str, change: str, now: int) -> int:
        with self.call(now):
            changed = (queue in self.paused) is not (change == "paused")
            (self.paused.add if change == "paused" else self.paused.discard)(queue)
            if changed:
                self.lines.append(f"queue {queue} {change}")
            return int(changed)
