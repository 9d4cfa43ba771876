"""The checker finds what it is there to find: each invariant, broken by hand."""

from __future__ import annotations

from typing import Any

import pytest
from crash.checker import RESTARTED, misplaced, violations
from crash.evidence import Evidence, LedgerLine, Mark, Snapshot

ID = "r0-1"


def run_with(*states: str, number: int = 1, **more: Any) -> dict[str, Any]:
    """A run whose history is those states, with attempts numbered 1 to `number`, of which the last succeeded."""
    attempts = [{"number": one, "state": "lost", "reason": "lost"} for one in range(1, number)]
    attempts.append({"number": number, "state": "succeeded", "reason": None})
    history = [{"at": "", "state": state, "reason": None, "by": "x"} for state in states]
    known = {"id": ID, "task": None, "state": states[-1], "reason": None, "trigger": "api", "suspect": False}
    return {**known, "finished_at": "", "error": None, "attempts": attempts, "history": history, **more}


def evidence(**changes: Any) -> Evidence:
    """Of one acknowledged run that went well, but for the changes."""
    marks = [Mark("start", ID, 1), Mark("end", ID, 1)]
    snapshot = Snapshot({ID: "succeeded"}, {"state:succeeded": [ID]})
    good: dict[str, Any] = {
        "acknowledged": {ID},
        "runs": {ID: run_with("queued", "running", "succeeded")},
        "marks": marks,
    }
    return Evidence(**{**good, "snapshot": snapshot, **changes})


def test_nothing_is_wrong_with_a_run_that_went_well() -> None:
    assert violations(evidence()) == []


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("i1_all_end", {"runs": {}}),
        ("i1_all_end", {"runs": {ID: run_with("queued", "running")}}),
        ("i1_all_end", {"runs": {ID: run_with("queued", "running", "failed")}}),
        ("i2_one_end", {"runs": {ID: run_with("queued", "succeeded", "running", "succeeded")}}),
        ("i4_as_charged", {"marks": []}),
        ("i4_as_charged", {"marks": [Mark("start", ID, 1)]}),
        ("i4_as_charged", {"marks": [Mark("start", ID, 1), Mark("start", ID, 1), Mark("end", ID, 1)]}),
        ("i4_as_charged", {"marks": [Mark("start", ID, 1), Mark("end", ID, 1), Mark("start", ID, 2)]}),
        ("i6_logs", {"logs": {ID: "hell\n"}, "expected_logs": {ID: "hello\n"}}),
        ("i7_no_process", {"leftovers": ["sleep 60"]}),
        ("i5_ledger", {"ledger": [LedgerLine(1000, 1000, "missed"), LedgerLine(3000, 3000, "missed")]}),
        ("i5_ledger", {"ledger": [LedgerLine(1000, 1000, "fired", ID), LedgerLine(2000, 2000, "fired", ID)]}),
        ("i5_ledger", {"runs": {ID: run_with("queued", "running", "succeeded", trigger="schedule")}}),
    ],
)
def test_a_broken_invariant_is_named(rule: str, changes: dict[str, Any]) -> None:
    found = violations(evidence(**changes))
    assert rule in {one.partition(":")[0] for one in found}


def test_attempts_that_overlap_are_found() -> None:
    marks = [Mark("start", ID, 1), Mark("start", ID, 2), Mark("beat", ID, 1), Mark("end", ID, 2)]
    runs = {ID: run_with("queued", "running", "queued", "running", "succeeded", number=2)}
    found = violations(evidence(marks=marks, runs=runs))
    assert [one.partition(":")[0] for one in found] == ["i3_no_overlap"]


def test_more_at_once_than_a_task_has_room_for_are_found() -> None:
    marks = [Mark(kind, run_id, 1) for kind, run_id in [("start", "a"), ("start", "b"), ("end", "a"), ("end", "b")]]
    runs = {one: run_with("queued", "running", "succeeded", task="limited") | {"id": one} for one in "ab"}
    found = [
        violations(evidence(marks=marks, runs=runs, acknowledged=set(), room={"limited": room})) for room in (1, 2)
    ]
    assert ["i3_limits_hold" in str(one) for one in found] == [True, False]


@pytest.mark.parametrize(
    "indexes",
    [
        {},
        {"state:queued": [ID]},
        {"state:queued": [ID], "state:running": [ID], "ready:x": [ID]},
        {"state:queued": [ID], "ready:x": [ID], "delayed": [ID]},
        {"state:queued": [ID], "ready:x": [ID], "permit:y": [ID]},
        {"state:queued": [ID, "r0-2"], "ready:x": [ID]},
    ],
)
def test_a_run_in_no_place_or_in_two_is_found(indexes: dict[str, list[str]]) -> None:
    assert misplaced(Snapshot({ID: "queued"}, indexes))


def test_a_run_in_its_one_place_is_fine() -> None:
    assert misplaced(Snapshot({ID: "queued"}, {"state:queued": [ID], "ready:x": [ID], "live:y": [ID]})) == []


@pytest.mark.parametrize(
    ("log", "is_fine"),
    [
        ("1\n2\n3\n", True),
        ("1\n3\n", False),
        (f"1\n{RESTARTED}3\n", True),
        (f"{RESTARTED}{RESTARTED}2\n3\n", True),
        (f"1\n{RESTARTED}2\n{RESTARTED}", True),
        (f"1\n{RESTARTED}1\n2\n3\n", False),
        (f"2\n{RESTARTED}3\n", False),
        (f"1\n{RESTARTED}2\n", False),
        (f"1\n2\n{RESTARTED}1\n{RESTARTED}3\n", False),
    ],
)
def test_a_log_may_miss_something_only_where_it_says_so(log: str, is_fine: bool) -> None:
    runs = {ID: run_with("queued", "running", "succeeded")}
    marks = [Mark("start", ID, 1), Mark("end", ID, 1)]
    found = violations(evidence(marks=marks, runs=runs, logs={ID: log}, expected_logs={ID: "1\n2\n3\n"}))
    assert ("i6_logs" in str(found)) is not is_fine
