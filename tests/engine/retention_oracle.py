"""Which final runs are forgotten, in plain Python."""

from __future__ import annotations

from collections.abc import Sequence

from engine.oracle import Oracle


class RetentionOracle:
    """Forgets runs of the oracle."""

    def __init__(self, runs: Oracle) -> None:
        self.runs = runs

    def forget(self, why: str, bound: int, task: str, candidates: Sequence[str], now: int) -> int:
        runs = self.runs.runs
        with self.runs.call(now):
            counted = [run for run in runs.values() if run.is_final and (not task or run.spec.task == task)]
            room = len(candidates) if why == "age" else len(counted) - bound
            gone = [run_id for run_id in candidates if self._may_go(run_id, bound if why == "age" else None)]
            for run_id in gone[: max(0, room)]:
                runs.pop(run_id, None)
                self.runs.logs.pop(run_id, None)
                self.runs.unpacked.discard(run_id)
            return len(gone[: max(0, room)])

    def _may_go(self, run_id: str, before: int | None) -> bool:
        run = self.runs.runs.get(run_id)
        if run is None or not run.is_final:
            return run is None
        return before is None or int(run.history.splitlines()[-1].split(" ")[0]) < before
