"""The byte examples and tables of docs/worker-protocol.md are true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from taskman.runtime import wire
from taskman.runtime.session import HEARTBEAT_S, SILENCE_S

TEXT = (Path(__file__).parents[2] / "docs" / "worker-protocol.md").read_text()
EXAMPLES = re.findall(r"```json\n(.*?)\n```\n```hex\n(.*?)\n```", TEXT, re.DOTALL)
FROM_SERVER = {"welcome"}


def as_bytes(value: dict[str, Any]) -> Any:
    return value["bytes"].encode() if set(value) == {"bytes"} else value


@pytest.mark.parametrize(("shown", "encoded"), EXAMPLES)
def test_an_example_is_what_its_bytes_say(shown: str, encoded: str) -> None:
    frame, messages = bytes.fromhex(encoded), json.loads(shown, object_hook=as_bytes)
    assert msgspec.msgpack.encode(messages) == frame
    read = wire.read_from_server if messages[0]["m"] in FROM_SERVER else wire.read_from_worker
    assert len(read(frame)) == len(messages)


def test_there_are_examples_of_the_important_kinds() -> None:
    kinds = {message["m"] for shown, _ in EXAMPLES for message in json.loads(shown)}
    assert kinds >= {"hello", "want", "beat", "log", "done", "welcome"}


@pytest.mark.parametrize(
    ("section", "messages"), [("From the worker", wire.FromWorker), ("From the server", wire.FromServer)]
)
def test_each_kind_is_in_the_tables_with_its_fields(section: str, messages: Any) -> None:
    part = TEXT.partition(f"## {section}")[2].partition("\n## ")[0]
    rows = {
        kind: row
        for row in part.splitlines()
        for kind in re.findall(r"`(\w+)`", row.split("|")[1] if "|" in row else "")
    }
    for message in get_args(messages):
        kind = message.__struct_config__.tag
        for field in message.__struct_fields__:
            assert f"`{field}`" in rows[kind], (kind, field)


def test_each_field_of_a_run_is_described() -> None:
    for field in wire.AssignedRun.__struct_fields__:
        assert f"`{field}`" in TEXT.partition("A run of `assign`")[2]


def test_the_numbers_are_the_codes() -> None:
    assert f"{wire.FRAME_BYTES:,} bytes" in TEXT
    assert f"silent for {SILENCE_S:g} s" in TEXT
    assert msgspec.msgpack.decode(bytes.fromhex(EXAMPLES[-1][1]))[0]["heartbeat_s"] == HEARTBEAT_S
