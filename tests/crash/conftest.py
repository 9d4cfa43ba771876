"""The scene that each crash test plays on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from crash.scene import Scene


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Servers, Redis, load; whatever is left at the end is killed."""
    made = Scene(tmp_path)
    yield made
    made.close()
