"""Who is called for a run before its event: every order of what is heard, and no call lost."""

from __future__ import annotations

from itertools import permutations

import pytest

from taskman.runtime.foresight import Foresight


def test_a_run_that_was_not_foreseen_is_called_for() -> None:
    assert Foresight().heard("a")


def test_a_run_that_was_claimed_early_is_not_called_for_when_its_event_comes() -> None:
    ahead = Foresight()
    ahead.expect(["a"])
    assert ahead.settle(["a"], {"a"}) == []
    assert not ahead.heard("a")
    assert ahead.heard("a")  # it is queued again: that is news


def test_the_event_may_come_before_the_claim_returns() -> None:
    ahead = Foresight()
    ahead.expect(["a"])
    assert not ahead.heard("a")
    assert ahead.settle(["a"], {"a"}) == []
    assert ahead.heard("a")


def test_a_run_whose_event_came_while_a_claim_missed_it_is_called_for_after_all() -> None:
    ahead = Foresight()
    ahead.expect(["a", "b"])
    assert not ahead.heard("a")
    assert ahead.settle(["a", "b"], {"b"}) == ["a"]


def test_a_run_that_a_claim_missed_is_called_for_when_its_event_comes() -> None:
    ahead = Foresight()
    ahead.expect(["a"])
    assert ahead.settle(["a"], set()) == []
    assert ahead.heard("a")


@pytest.mark.parametrize("is_claimed", [True, False])
@pytest.mark.parametrize("order", list(permutations(["heard", "settle"])))
def test_whatever_comes_first_exactly_the_missed_are_called_for(order: tuple[str, str], is_claimed: bool) -> None:
    ahead = Foresight()
    ahead.expect(["a"])
    calls = 0
    for what in order:
        calls += ahead.heard("a") if what == "heard" else len(ahead.settle(["a"], {"a"} if is_claimed else set()))
    assert calls == (0 if is_claimed else 1)


def test_after_a_gap_every_event_calls() -> None:
    ahead = Foresight()
    ahead.expect(["asked", "taken"])
    ahead.settle(["taken"], {"taken"})
    ahead.forget()
    assert ahead.heard("asked")
    assert ahead.heard("taken")
    assert ahead.settle(["asked"], set()) == ["asked"]  # it may have been heard before the gap


def test_what_is_remembered_is_bounded() -> None:
    ahead = Foresight()
    for number in range(30_000):
        ahead.expect([str(number)])
    assert sum(not ahead.heard(str(number)) for number in range(30_000)) <= 10_001
