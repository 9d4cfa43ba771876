"""The table of a benchmark: what was found, beside its budget, and beside what the machine could do at that moment.

The budgets are for a machine on which the bare runner (bare.py) reached the reference figures below. On one that is
slower, or busy, a budget moves along with the bare runner's figure of the same run. It never gets stricter than it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Report"]

# What bare.py finds on the machine of the budgets: times in ms, and rates a second.
TIMES = {"latency": 1.3, "latency, remote": 1.6, "due": 63.0}
RATES = {"single": 10_700.0, "bulk": 132_000.0, "drain": 25_500.0, "drain, remote": 24_000.0, "spawns": 2400.0}


@dataclass
class Report:
    """The rows of the table."""

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def rate(self, what: str, found: float, budget: float, limit: str = "", bare: float = 0.0) -> None:
        """A rate that should be at least its budget."""
        here = budget * min(1.0, bare / RATES[limit]) if bare else budget
        self._judge(what, f"{found:,.0f}/s", f"≥ {budget:,.0f}/s", f"{here:,.0f}/s", found >= budget, found >= here)

    def most(self, what: str, found: float, unit: str, budget: float, limit: str = "", bare: float = 0.0) -> None:
        """A time or a size that should be at most its budget."""
        slower = (bare / TIMES[limit] if limit in TIMES else RATES[limit] / bare) if bare else 1.0
        here = budget * max(1.0, slower)
        shown = f"{found:,.2f}" if found < 1 else f"{found:,.1f}" if found < 20 else f"{found:,.0f}"
        self._judge(what, f"{shown} {unit}", f"≤ {budget:g} {unit}", f"{here:,.1f} {unit}", found <= budget,
                    found <= here)  # fmt: skip

    def note(self, what: str, found: str) -> None:
        """Something without a budget."""
        self._add(what, found, "", "")

    def _judge(self, what: str, found: str, budget: str, here: str, is_met: bool, is_met_here: bool) -> None:
        self._add(what, found, budget, "met" if is_met else f"met, here {here}" if is_met_here else f"MISSED, {here}")

    def _add(self, what: str, found: str, budget: str, verdict: str) -> None:
        self.rows.append((what, found, budget, verdict))
        print(f"{what:<58} {found:>16}   {budget:<18} {verdict}", flush=True)
