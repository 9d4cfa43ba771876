"""What the scripts promise in their headers, and the one list of keys."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from taskman.model.states import EVENTS, REASONS, State
from taskman.store.keys import PATTERNS, Keys
from taskman.store.scripts import load_script

FOLDER = files("taskman.store") / "lua"
SCRIPTS = sorted({entry.name.removesuffix(".lua") for entry in FOLDER.iterdir()} - {"prelude"})


def body(name: str) -> str:
    return (FOLDER / f"{name}.lua").read_text()


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_has_the_fixed_header(name: str) -> None:
    header = body(name).partition("\nlocal ")[0]
    assert header.startswith(f"-- {name}: ")
    for word in ("KEYS[1] shard prefix", "ARGV[1] now, epoch ms", "-- Reply: ", "-- Safe to repeat"):
        assert word in header, word


@pytest.mark.parametrize("name", ["prelude", *SCRIPTS])
def test_each_key_that_a_script_builds_is_in_the_list(name: str) -> None:
    heads = {pattern.partition("<")[0] for pattern in PATTERNS}
    for built in re.findall(r"P \.\. '([^']*)'", body(name)):
        assert built in heads, built


def test_each_key_that_python_builds_is_in_the_list() -> None:
    keys = Keys()
    built = [getattr(keys, name) for name in ("events", "signatures", "leases", "schedules", "tasks", "meta")]
    built += [keys.unpacked, keys.unfinished, keys.tokens, keys.token_uses, keys.draining]
    named = ("run", "log", "blocks", "progress", "notice", "state", "task", "task_runs", "ledger", "session", "link")
    built += [getattr(keys, name)("X") for name in named]
    shapes = {re.sub(r"<\w+>", "X", pattern) for pattern in PATTERNS}
    assert {key.removeprefix("tm:{0}:") for key in built} <= shapes


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_never_decode_user_data(name: str) -> None:
    assert b"cjson" not in load_script(name).source


def test_states_and_reasons_in_scripts_are_known_ones() -> None:
    known = {str(state) for state in State}
    for name in ["prelude", *SCRIPTS]:
        for state, reason in re.findall(r"change\(run, '(\w+)', '([\w-]+)'", body(name)):
            assert state in known
            assert reason == "-" or reason in REASONS
    assert {target for _, target in EVENTS.values()} <= set(State)
