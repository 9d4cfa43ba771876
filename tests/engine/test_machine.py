"""The same steps under Hypothesis: when store and oracle differ, it finds a short way to it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest
from engine.direct import Direct
from engine.steps import WEIGHTS
from engine.twin import Twin
from engine.walk import tell
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

EXAMPLES = int(os.environ.get("TASKMAN_TEST_EXAMPLES", "150"))


STEPS = [step for step, weight in WEIGHTS.items() for _ in range(weight)]


class EngineMachine(RuleBasedStateMachine):
    """One rule, which draws the step by its weight: rules of equal weight rarely get anywhere."""

    direct: Direct

    def __init__(self) -> None:
        super().__init__()
        self.twin = Twin(self.direct)

    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        step, known = data.draw(st.sampled_from(STEPS)), len(self.twin.calls)
        try:
            step(self.twin, lambda options: data.draw(st.sampled_from(options)))
        finally:
            note(tell(self.twin.calls[known:]))


@pytest.mark.timeout(600)  # shrinking takes minutes, and nothing when all is well
def test_store_and_oracle_agree_whatever_the_order(
    start_redis: Callable[..., tuple[str, subprocess.Popen[bytes]]],
) -> None:
    url, _ = start_redis()
    direct = EngineMachine.direct = Direct(url.removeprefix("unix://"))
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    run_state_machine_as_test(
        EngineMachine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=50,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=checks,
        ),
    )
    direct.close()
