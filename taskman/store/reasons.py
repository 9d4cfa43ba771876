"""Gathering the facts that say why a run is not running."""

from __future__ import annotations

from ..model.admission import Facts, Hindrance, hindrances
from ..model.run import Run
from .connection import Connection
from .keys import Keys
from .queues import Queues
from .workers import Workers

__all__ = ["explain"]


async def explain(run: Run, connection: Connection, keys: Keys, queues: Queues, workers: Workers) -> list[Hindrance]:
    """Every reason why the run is not running now; empty when nothing keeps it. Raises StoreUnavailable."""
    commands: list[tuple[str, ...]] = [("SCARD", keys.permit(name)) for name in run.spec.permits]
    commands.append(("ZRANK", keys.ready(run.spec.signature), run.id))
    *held, rank = await connection.execute_many(commands)
    facts = Facts(
        holders=dict(zip(run.spec.permits, held, strict=True)),
        paused=await queues.paused(),
        workers=[entry.node for entry in await workers.live()],
        ahead=rank if isinstance(rank, int) else 0,
    )
    return hindrances(run, facts)
