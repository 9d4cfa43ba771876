"""`/`: how things stand, what needs attention, what comes next, what ran last."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from quart import Blueprint, render_template
from quart.typing import ResponseReturnValue

from ...model.run import Run
from ...model.states import State
from ..auth import require_page
from ..services import Services, services
from .facets import FACETS
from .wording import now_ms

__all__ = ["blueprint", "overview"]

_DAY_MS = 86_400_000
_TEN_YEARS_MS = 3653 * _DAY_MS
_PATIENCE_MS = 60_000
_LOOK_BACK = 200

blueprint = Blueprint("overview", __name__)
blueprint.before_request(require_page)


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that a person should look at, and where."""

    title: str
    detail: str
    href: str
    at_ms: int | None = None


@blueprint.get("/")
async def show() -> ResponseReturnValue:
    """The overview."""
    return await render_template("overview/show.html", **await overview(services()))


async def overview(services: Services) -> dict[str, Any]:
    """What the overview shows now. Raises StoreUnavailable."""
    store = services.store
    counts = await store.runs.count_by_state()
    latest = await store.runs.page(limit=80)
    return {
        "tiles": [(facet, sum(counts[state] for state in facet.states)) for facet in FACETS if facet.is_tile],
        "total": sum(counts.values()),
        "concerns": [*_installation(services), *await _waiting(services), *await _failing(services)],
        "fires": await store.tasks.due(now_ms() + _TEN_YEARS_MS, 8),
        "runs": latest.runs,
    }


def _installation(services: Services) -> list[Concern]:
    found = []
    if services.store.is_reachable and services.store.fitness.durability == "volatile":
        text = "Redis does not write to disk: if it stops, runs and tasks are lost. Turn on its append-only file."
        found.append(Concern("Nothing is kept on disk", text, "/plugins"))
    broken = [one for one in services.registry.plugins if one.error]
    found += [Concern(f"Plugin {one.name} is out of order", one.error or "", "/plugins") for one in broken]
    return found


async def _waiting(services: Services) -> list[Concern]:
    page = await services.store.runs.page(states=[State.QUEUED, State.CANCELLING], limit=_LOOK_BACK)
    late = [run for run in page.runs if run.history[-1].at_ms < now_ms() - _PATIENCE_MS]
    queued = [run for run in late if run.state is State.QUEUED]
    stuck = [run for run in late if run.state is State.CANCELLING]
    found = [
        Concern(f"{run.id} is slow to cancel", "Its worker has not confirmed that all processes are gone.", _path(run))
        for run in stuck[:3]
    ]
    if queued:
        needs = ", ".join(sorted({f"{run.spec.type} in queue {run.spec.queue}" for run in queued})[:3])
        count = f"{len(queued)} run{'s wait' if len(queued) > 1 else ' waits'}"
        text = f"No worker is free for: {needs}."
        found.append(Concern(f"{count} for a worker", text, "/runs?state=queued", queued[-1].due_ms))
    return found


async def _failing(services: Services) -> list[Concern]:
    """Tasks whose newest run has failed within a day; and failed runs without a task, together."""
    page = await services.store.runs.page(states=[State.FAILED], limit=_LOOK_BACK)
    since = now_ms() - _DAY_MS
    fresh = [run for run in page.runs if (run.finished_ms or 0) > since and not run.spec.is_child]
    counts = Counter(run.spec.task for run in fresh)
    newest = {run.spec.task: run for run in reversed(fresh)}
    names = [name for name in newest if name is not None]
    last = dict(zip(names, await services.store.tasks.last_run_ids(names), strict=True))
    found = [
        Concern(f"{name} failed", _failure(newest[name], counts[name]), _path(newest[name]), newest[name].finished_ms)
        for name in names
        if last[name] == newest[name].id
    ]
    if lone := newest.get(None):
        text = f"{counts[None]} in 24 h; the last: {lone.error or lone.reason or 'no reason given'}"
        found.append(Concern("Runs without a task failed", text, "/runs?state=failed", lone.finished_ms))
    return sorted(found, key=lambda one: -(one.at_ms or 0))[:8]


def _failure(run: Run, count: int) -> str:
    what = run.error or run.reason or "no reason given"
    return f"{what}; {count} times in 24 h" if count > 1 else what


def _path(run: Run) -> str:
    return f"/runs/{run.id}"
