"""The walks against scripts with planted faults."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from engine.direct import Direct
from engine.mutants import MUTANTS, Mutant
from engine.walk import WalkFailed, walk

WALKS, STEPS = 40, 250
LEAST_CAUGHT = 0.95


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.script}: {mutant.why}")
def test_the_text_that_a_mutant_replaces_is_there_once(mutant: Mutant) -> None:
    assert mutant.occurrences() == 1
    assert mutant.old != mutant.new


def walks_until_caught(path: str, mutant: Mutant) -> int | None:
    """The number of walks that it took; None when none noticed."""
    direct = Direct(path, mutant.planted())
    try:
        for seed in range(WALKS):
            try:
                walk(direct, seed, STEPS)
            except WalkFailed:
                return seed + 1
        return None
    finally:
        direct.close()


@pytest.mark.mutation
@pytest.mark.timeout(3600)
def test_the_walks_notice_nearly_every_planted_fault(
    start_redis: Callable[..., tuple[str, subprocess.Popen[bytes]]], capsys: pytest.CaptureFixture[str]
) -> None:
    url, _ = start_redis()
    walks = {mutant: walks_until_caught(url.removeprefix("unix://"), mutant) for mutant in MUTANTS}
    survivors = [mutant for mutant, count in walks.items() if count is None]
    with capsys.disabled():
        print(f"\n{len(MUTANTS) - len(survivors)} of {len(MUTANTS)} planted faults noticed")
        for mutant, count in walks.items():
            if count is None or count > WALKS // 4:
                print(f"  {count or 'never'}: {mutant.script}: {mutant.why}")
    assert len(survivors) <= (1 - LEAST_CAUGHT) * len(MUTANTS)
