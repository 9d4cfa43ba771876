"""The store in plain Python: what every script must answer about runs, and what must be in Redis afterwards.

Nothing is kept twice here. An index is computed from the runs (see expected.py), so the oracle cannot contain the
contradictions that it looks for. Whether a permit has room is decided by `admission.full_permit`, so the walk also
proves that the claim script applies the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from engine.oracle_rules import Rules
from engine.oracle_run import WAITING, OracleRun

from taskman.model.admission import full_permit
from taskman.model.ids import child_run_id
from taskman.model.progress import Progress
from taskman.model.run import RunSpec
from taskman.model.states import State
from taskman.store.logs import Chunk
from taskman.store.runs import Outcome, Submission

IDEMPOTENT_MS = 86_400_000
LIGHTEST = 64


class Oracle(Rules):
    """The runs of one shard. Each public method is one call of the script of that name, at `now`."""

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
        if due > self.now:
            self.lines.append(f"due {due}")
        else:
            self._make_ready(run)
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
        if run is None or run.state not in WAITING or run.attempt >= attempt or run.is_placed:
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
        run = self.runs.get(run_id)
        before = run.state if run else ""
        with self.call(now):
            if run:
                self._cancel(run, "requested", quote(by))
                for one in [run, *self.children(run)] if force and run.state is State.CANCELLING else []:
                    if one.state is State.CANCELLING:
                        self.tell(one, "forced")
        return (int(run.state is not before), run.state) if run else (0, "")

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
        if run is None or not run.holds or run.is_placed:
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

    def _expire(self, kind: str, run_id: str) -> int:
        run = self.runs.get(run_id)
        if run is None:
            return 0
        limit = run.start_by if kind == "start" else run.end_by
        if limit is None or limit > self.now:
            return 0
        if kind == "start":
            run.start_by = None
        else:
            run.end_by = None
        return self._end_late(run, "expired" if kind == "start" else "deadline")

    def _end_late(self, run: OracleRun, reason: str) -> int:
        if run.state in WAITING:
            self._end_waiting(run, State.FAILED, reason, "watchdog")
            return 1
        if run.state is State.RUNNING and reason == "deadline":
            run.ending = "deadline"
            self._change(run, State.CANCELLING, "deadline", "watchdog")
            return 1 + sum(self._end_late(child, reason) for child in self.children(run))
        return 0

    # Placed on all workers.

    def expand(self, run_id: str, workers: Sequence[str], now: int) -> str:
        run = self.runs.get(run_id)
        with self.call(now):
            if run and run.state is State.QUEUED and run.is_placed and workers and run.spec.queue not in self.paused:
                self._expand(run, workers)
        return run.state if run else ""

    def _expand(self, run: OracleRun, workers: Sequence[str]) -> None:
        if permit := full_permit(run.spec, self.holders()):
            run.waits_for = permit
            self._freed.update(run.spec.permits)
            return self._change(run, State.BLOCKED, "limit", "placement")
        run.attempt, run.start_by = run.attempt + 1, None
        self._change(run, State.RUNNING, "-", "placement")
        self._forget_unique(run, "pending")
        for worker in workers:
            self._add_child(run, worker)
        return None

    def _add_child(self, run: OracleRun, worker: str) -> None:
        child = OracleRun(child_run_id(run.id, worker), run.spec.pinned(run.id, worker), self.now)
        self.runs[child.id] = child
        run.children.append(child.id)
        self._begin(child)
        self._change(child, State.QUEUED, "-", "placement")
        self._make_ready(child)

    def abandon(self, candidates: Sequence[str], now: int) -> int:
        with self.call(now):
            found = [self.runs[run_id] for run_id in dict.fromkeys(candidates) if run_id in self.runs]
            waiting = [run for run in found if run.state in WAITING and run.spec.is_child]
            for run in waiting:
                run.error = "lost: the worker that it was placed on went away"
                self._end_waiting(run, State.FAILED, "lost", "watchdog")
            return len(waiting)

    def pause_queue(self, queue: str, change: str, now: int) -> int:
        with self.call(now):
            changed = (queue in self.paused) is not (change == "paused")
            (self.paused.add if change == "paused" else self.paused.discard)(queue)
            if changed:
                self.lines.append(f"queue {queue} {change}")
            return int(changed)
