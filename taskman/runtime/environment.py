"""The environment that processes get from their worker."""

from __future__ import annotations

import os

__all__ = ["inherited"]


def inherited() -> dict[str, str]:
    """The worker's environment without Taskman's own settings: a task gets no credentials of ours.

    A shim is started with it and hands it on, so that it does not travel with each run.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("TASKMAN_")}
