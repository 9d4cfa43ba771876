"""Which final runs are forgotten, in plain Python."""

from __future__ import annotations

from collections.abc import Sequence

from engine.oracle import Oracle


class RetentionOracle:
    """Forgets runs of the oracle."""

    def __init__(self, runs: Oracle) -> None:
        self.runs = runs

    def forget(self, why: str, bound: int, task: str, candidates: Sequence[str], now: int) -> int:
        runs, removed, gone = self.runs.runs, 0, set[str]()
        with self.runs.call(now):
            counted = [run for run in runs.values() if run.is_final and (not task or run.task == task)]
            room = len(candidates) if why == "age" else len(counted) - bound
            for run_id in candidates:
                if removed >= room:
                    break
                if run_id not in gone and self._may_go(run_id, bound if why == "age" else None):
                    family = [run_id, *(runs[run_id].children if run_id in runs else ())]
                    gone.update(family[1:])
                    removed += 1 if task else len(family)
                    for one in family:
                        self._remove(one)
        return removed

    def _remove(self, run_id: str) -> None:
        self.runs.runs.pop(run_id, None)
        self.runs.logs.pop(run_id, None)
        self.runs.unpacked.discard(run_id)

    def _may_go(self, run_id: str, before: int | None) -> bool:
        """A child goes with its parent."""
        run = self.runs.runs.get(run_id)
        if run is None or not run.is_final:
            return run is None
        if run.spec.is_child and run.spec.parent in self.runs.runs:
            return False
        return before is None or int(run.history.splitlines()[-1].split(" ")[0]) < before
