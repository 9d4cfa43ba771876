"""Random walks through every script, each reply and each key compared with the oracle's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator

import pytest
from engine.direct import Direct
from engine.walk import WalkFailed, shorten, tell, walk

WALKS = int(os.environ.get("TASKMAN_TEST_WALKS", "40"))
STEPS = int(os.environ.get("TASKMAN_TEST_STEPS", "250"))
FIRST_SEED = int(os.environ.get("TASKMAN_TEST_SEED", "0"))


@pytest.fixture
def direct(start_redis: Callable[..., tuple[str, subprocess.Popen[bytes]]]) -> Iterator[Direct]:
    url, _ = start_redis()
    direct = Direct(url.removeprefix("unix://"))
    yield direct
    direct.close()


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + WALKS))
def test_store_and_oracle_agree_on_every_step_of_a_walk(direct: Direct, seed: int) -> None:
    try:
        walk(direct, seed, STEPS)
    except WalkFailed as failure:
        calls = shorten(direct, failure.calls)
        pytest.fail(f"{failure}\nThe way there, shortened:\n{tell(calls)}", pytrace=False)
