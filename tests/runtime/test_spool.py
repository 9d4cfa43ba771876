"""What a worker could not deliver is on disk, whole, in order, bounded, and readable after a crash."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from taskman.model.ids import new_run_id
from taskman.runtime.spool import Spool, Spooled

LIMIT = 1000


def messages_of(entry: Spooled, limit: int = 10_000) -> list[bytes]:
    """Everything undelivered, read bit by bit."""
    found = []
    while part := entry.read(limit):
        found += [message for message, _ in part]
        entry.delivered = part[-1][1]
    return found


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool", LIMIT)
    assert spool.load() == []
    return spool


async def test_messages_come_out_as_they_went_in_whatever_is_read_at_once(spool: Spool) -> None:
    key, messages = (new_run_id(), 1), [b"x" * size for size in (0, 1, 10, 300, 5)]
    await spool.add_log(key, messages)
    await spool.add_result(key, b"done")
    [entry] = spool
    for limit in (1, 8, 20, 10_000):
        entry.delivered = 0
        assert messages_of(entry, limit) == [*messages, b"done"]
    assert entry.has_result
    assert entry.is_delivered


async def test_a_later_process_finds_what_an_earlier_one_left(spool: Spool, tmp_path: Path) -> None:
    key = new_run_id(), 3
    await spool.add_log(key, [b"one", b"two"])
    [entry] = Spool(tmp_path / "spool", LIMIT).load()
    assert (entry.key, messages_of(entry)) == (key, [b"one", b"two"])


@pytest.mark.parametrize("torn", range(1, 12))
async def test_a_torn_end_is_left_out_and_written_over(spool: Spool, tmp_path: Path, torn: int) -> None:
    key = new_run_id(), 1
    await spool.add_log(key, [b"whole", b"torn"])
    [entry] = spool
    entry.path.write_bytes(entry.path.read_bytes()[:-torn])
    later = Spool(tmp_path / "spool", LIMIT)
    later.load()
    await later.add_result(key, b"done")
    [entry] = later
    assert messages_of(entry) == [b"whole", b"done"]


async def test_a_flipped_bit_hides_what_follows_and_nothing_else(spool: Spool, tmp_path: Path) -> None:
    await spool.add_log((new_run_id(), 1), [b"good", b"bad!"])
    [entry] = spool
    data = bytearray(entry.path.read_bytes())
    data[-1] ^= 1
    entry.path.write_bytes(data)
    [found] = Spool(tmp_path / "spool", LIMIT).load()
    assert messages_of(found) == [b"good"]


async def test_output_waits_for_room_and_results_do_not(spool: Spool, nursery: trio.Nursery) -> None:
    full, waits = (new_run_id(), 1), (new_run_id(), 1)
    await spool.add_log(full, [b"x" * LIMIT])
    nursery.start_soon(spool.add_log, waits, [b"later"])
    await wait_all_tasks_blocked()
    assert waits not in spool
    await spool.add_result(full, b"done")
    [entry] = spool
    spool.discard(entry)
    with trio.fail_after(5):
        while waits not in spool:
            await trio.sleep(0.01)
    assert not entry.path.exists()


async def test_files_of_others_are_left_alone(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "spool" / "README").write_text("mine")
    (tmp_path / "spool" / "r0-nonsense.1").write_text("mine")
    assert Spool(tmp_path / "spool", LIMIT).load() == []
    assert (tmp_path / "spool" / "README").exists()
