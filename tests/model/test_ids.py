"""Run ids: unique, sortable, and the same for the same fire time."""

from __future__ import annotations

import pytest

from taskman.model.ids import id_at, is_run_id, new_run_id, scheduled_run_id, shard_of


def test_ids_of_a_process_increase_also_when_the_clock_goes_back() -> None:
    ids = [new_run_id(now_ms=1000 - number) for number in range(2000)]
    assert ids == sorted(set(ids))
    assert all(map(is_run_id, ids))


def test_ids_sort_by_time_and_name_their_shard() -> None:
    assert id_at(0, 1000) < new_run_id(now_ms=10**12) < id_at(0, 2 * 10**12)
    assert shard_of(new_run_id(shard=7)) == 7


def test_a_scheduled_run_has_one_id_for_one_instant() -> None:
    ids = {
        scheduled_run_id(0, "t", "0", 1000),
        scheduled_run_id(0, "t", "0", 1000),
        scheduled_run_id(0, "t", "0", 2000),
    }
    assert len(ids) == 2


@pytest.mark.parametrize("text", ["", "r0-", "R0-" + "0" * 23, "r0-" + "0" * 22, "r0-" + "u" * 23, "../" + "0" * 23])
def test_what_is_no_id_is_refused(text: str) -> None:
    assert not is_run_id(text)
