"""Scratch directories: private, removed whatever is in them, and never more than them."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from taskman.runtime.scratch import Scratch

NOBODY = 65534


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    return Scratch(tmp_path / "scratch" / "w1")


def test_each_is_new_and_private(scratch: Scratch) -> None:
    first, second = scratch.make("r0-1", 1), scratch.make("r0-1", 1)
    assert first != second
    assert stat.S_IMODE(first.stat().st_mode) == 0o700
    assert list(first.iterdir()) == []


def fill(path: Path, outside: Path) -> None:
    """Everything that has ever kept a directory from being removed."""
    (path / "deep" / "er").mkdir(parents=True)
    (path / "deep" / "er" / "file").write_text("x")
    (path / "file").write_text("x")
    (path / "file").chmod(0o400)
    (path / "to-file").symlink_to(outside / "kept")
    (path / "to-directory").symlink_to(outside)
    (path / "deep" / "dangling").symlink_to("nowhere")
    os.mkfifo(path / "fifo")
    (path / "closed").mkdir()
    (path / "closed" / "inside").write_text("x")
    (path / "closed").chmod(0o000)
    (path / "deep" / "er").chmod(0o500)
    (path / "deep").chmod(0o500)
    path.chmod(0o500)


async def test_all_of_it_is_removed_and_nothing_outside(scratch: Scratch, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    outside.chmod(0o500)
    path = scratch.make("r0-1", 1)
    fill(path, outside)
    await scratch.remove(path)
    assert not path.exists()
    assert (outside / "kept").read_text() == "kept"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o500


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who has to obey permissions")
async def test_it_is_removed_also_by_who_has_to_obey_permissions(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as home:  # where nobody else may go, root's own temporary files are
        os.chown(home, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            scratch = Scratch(Path(home) / "w1")
            path = scratch.make("r0-1", 1)
            fill(path, tmp_path)
            await scratch.remove(path)
        finally:
            os.seteuid(0)
        assert os.listdir(Path(home) / "w1") == []


async def test_what_a_killed_worker_left_is_swept_and_what_is_new_stays(scratch: Scratch, tmp_path: Path) -> None:
    old = scratch.make("r0-1", 1)
    fill(old, tmp_path)
    successor = Scratch(tmp_path / "scratch" / "w1")
    leftovers = successor.leftovers()
    new = successor.make("r0-1", 2)
    await successor.sweep(leftovers)
    assert (old.exists(), new.is_dir()) == (False, True)


def test_where_nothing_was_ever_made_there_is_nothing_left(scratch: Scratch) -> None:
    assert scratch.leftovers() == []
