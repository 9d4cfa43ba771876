"""Faults at random under load for as long as asked, then quiet, then the checker. The long form: `tox -e soak`."""

from __future__ import annotations

import logging
import os
import random
import time
from collections import Counter

import pytest
from crash.checker import misplaced
from crash.faults import Faults
from crash.scene import Scene

MINUTES = float(os.environ.get("TASKMAN_TEST_SOAK_MINUTES", "30"))
_log = logging.getLogger(__name__)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(60 * MINUTES + 900)
def test_every_invariant_holds_after_faults_at_random(scene: Scene) -> None:
    seed = int(os.environ.get("TASKMAN_TEST_SOAK_SEED", time.time_ns() // 1_000_000))
    _log.warning("TASKMAN_TEST_SOAK_SEED=%d for %g minutes", seed, MINUTES)
    chance = random.Random(seed)
    scene.start_redis()
    for _ in range(2):
        scene.start_server()
    scene.start_load(rate=8)
    faults = Faults(scene, chance)
    until = time.monotonic() + 60 * MINUTES
    while time.monotonic() < until:
        name = chance.choice([*faults.all])
        _log.warning("%s", name)
        faults.all[name]()
        assert misplaced(scene.snapshot()) == []
        scene.acknowledged(chance.randrange(2, 20))
    evidence = scene.check(within_s=180)
    states = Counter(attempt["state"] for run in evidence.runs.values() for attempt in run["attempts"])
    _log.warning("%d runs; attempts: %s", len(evidence.runs), dict(states))
