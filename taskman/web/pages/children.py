"""What the page of a placed run shows in the place of a log: the run on each worker."""

from __future__ import annotations

from typing import Any

from ...model.run import Run
from ...model.states import State
from ...store.store import Store
from .rendering import Renderer
from .wording import title_of

__all__ = ["children_of", "placed_parts"]

_SHOWN = 200
_ORDER = (State.FAILED, State.CANCELLED, State.CANCELLING, State.RUNNING)


async def children_of(store: Store, run: Run) -> dict[str, Any]:
    """Its children, those that went wrong first; of very many, some. Raises StoreUnavailable."""
    page = await store.runs.page(parent=run.id, limit=_SHOWN)
    total, left = await store.placements.left(run.id)
    return {"children": sorted(page.runs, key=_place), "total": total, "ended": total - left}


async def placed_parts(render: Renderer, *, run: Run, **values: Any) -> str:
    """Everything on that page that changes, for its stream."""
    parts = [await render("_partials/title.html", title=title_of(run))]
    for target, partial in (("run-head", "run_head"), ("run-side", "run_side"), ("children", "children")):
        parts.append(await render.into(f"#{target}", f"_partials/{partial}.html", "innerMorph", run=run, **values))
    return "".join(parts)


def _place(child: Run) -> tuple[int, str]:
    state = child.state
    return (_ORDER.index(state) if state in _ORDER else len(_ORDER)), child.spec.requires["worker"]
