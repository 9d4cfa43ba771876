"""Specs, runs, and the attempts that their history tells of."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskman.errors import InvalidInput
from taskman.model.run import HistoryEntry, Run, RunSpec, check_sizes
from taskman.model.states import EVENTS, FINAL, State


def test_a_spec_reads_back_the_same_and_leaves_out_its_defaults() -> None:
    spec = RunSpec(type="shell", params={"command": "ü"}, priority=3, requires={"gpu": "yes"})
    assert RunSpec.from_document(spec.to_document()) == spec
    assert RunSpec(type="x", params={}).to_document() == b'{"type":"x","params":{}}'
    assert RunSpec.from_document(b'{"type":"x","params":{},"of_a_newer_version":1}').type == "x"


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.text(), _values, max_size=4), st.booleans())
@example({"a": math.inf, "b": [-math.inf, math.nan], "c": 2**200, "d": 1e308}, True)
def test_params_of_any_kind_read_back_the_same(params: dict[str, Any], is_newer: bool) -> None:
    document = RunSpec(type="x", params=params, grace_s=3.5).to_document()
    if is_newer:
        document = document.replace(b"{", b'{"of_a_newer_version":{},', 1)
    read = RunSpec.from_document(document)
    assert (read.type, read.grace_s, repr(read.params)) == ("x", 3.5, repr(params))  # NaN equals nothing


def test_attempts_are_read_from_the_history() -> None:
    lines = ["1 queued - 0 a", "2 running - 1 worker:w1", "3 queued lost 1 watchdog", "4 running - 2 worker:w2"]
    lines += ["5 cancelling requested 2 user:A%20B", "6 cancelled requested 2 worker:w2"]
    history = tuple(HistoryEntry.parse(line) for line in lines)
    spec = RunSpec(type="x", params={})
    run = Run(id="r", spec=spec, state=State.CANCELLED, attempt=2, worker="w2", due_ms=1, history=history)
    assert [(one.number, one.worker, one.state, one.finished_ms) for one in run.attempts] == [
        (1, "w1", "lost", 3),
        (2, "w2", "cancelled", 6),
    ]
    assert (run.created_ms, run.started_ms, run.finished_ms) == (1, 4, 6)
    assert history[4].by == "user:A B"


def test_no_event_leads_out_of_a_final_state() -> None:
    for name, (sources, _) in EVENTS.items():
        assert not sources & FINAL, name


def test_what_is_too_big_to_be_kept_with_a_run_is_refused_at_once() -> None:
    check_sizes({"text": "x" * (1024 * 1024 - 11)}, {"A": "x" * (64 * 1024 - 3)})
    with pytest.raises(InvalidInput) as caught:
        check_sizes({"text": "x" * (1024 * 1024 - 10)}, {"A": "x" * (64 * 1024 - 2)})
    assert [(fault.pointer, fault.detail.partition(",")[0]) for fault in caught.value.faults] == [
        ("/params", "has 1"),
        ("/env", "has 65"),
    ]
