"""A pool of process trees, and a mark that shows what a test has left behind."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
import trio
from runtime.trees import carrying

from taskman.runtime.process import Processes


@pytest.fixture
def mark() -> Iterator[str]:
    """A text that marks the processes of one test, none of which may be left."""
    text = uuid.uuid4().hex
    yield text
    left = carrying(text)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.fixture
async def processes(nursery: trio.Nursery) -> AsyncIterator[Processes]:
    pool = Processes()
    await nursery.start(pool.run)
    yield pool
    nursery.cancel_scope.cancel()
