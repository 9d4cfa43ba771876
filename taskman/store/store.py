"""The store: every noun over one connection, and the tasks that keep it alive."""

from __future__ import annotations

import trio

from ..model.admission import Hindrance
from ..model.run import Run
from .checks import Fitness, check
from .connection import Connection
from .events import EventHub
from .keys import Keys
from .logs import DEFAULT_LIMIT, Logs
from .notices import Notices
from .placements import Placements
from .pubsub import PubSub
from .queues import Queues
from .reasons import explain
from .retention import Retention
from .runs import Runs
from .sessions import Sessions
from .tasks import Tasks
from .tokens import Tokens
from .types import TaskTypes
from .workers import Workers

__all__ = ["Store"]


class Store:
    """All that Taskman keeps in Redis; of the log of a run, `log_limit` bytes.

    Raises (constructor): ConfigError for a URL that cannot be understood.
    """

    def __init__(self, url: str, *, log_limit: int = DEFAULT_LIMIT) -> None:
        keys = Keys()
        self.connection, self.pubsub = Connection(url), PubSub(url)
        self.runs, self.tasks = Runs(self.connection, keys), Tasks(self.connection, keys)
        self.logs, self.sessions = Logs(self.connection, keys, log_limit), Sessions(self.connection, keys)
        self.tokens, self.notices = Tokens(self.connection, keys), Notices(self.connection, keys)
        self.placements = Placements(self.connection, keys)
        self.retention, self.types = Retention(self.connection, keys), TaskTypes(self.connection, keys)
        self.queues, self.workers = Queues(self.connection, keys), Workers(self.connection, keys)
        self.events = EventHub(self.connection, self.pubsub, keys)
        self.fitness = Fitness("", "volatile")
        self._keys = keys

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the connections for ever; ready once Redis is reached, checked and subscribed to.

        Cancellation closes the connections. Raises: StoreUnavailable, StoreUnsuitable.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self.connection.run)
            self.fitness = await check(self.connection, self._keys)
            await nursery.start(self.pubsub.run)
            await nursery.start(self.events.run)
            task_status.started()

    async def why(self, run: Run) -> list[Hindrance]:
        """Every reason why the run is not running now; empty when nothing keeps it. Raises StoreUnavailable."""
        return await explain(run, self.connection, self._keys, self.queues, self.workers)

    @property
    def is_reachable(self) -> bool:
        return self.connection.connected
