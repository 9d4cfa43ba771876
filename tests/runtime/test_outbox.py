"""Outcomes leave soon and together, and none is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest
import trio
import trio.testing

from taskman.errors import StoreUnavailable
from taskman.runtime.link import Link
from taskman.runtime.outbox import Outbox
from taskman.store.runs import Outcome


class Slow:
    """A link that records an outcome when it is let."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self._answers: list[trio.Event] = []
        self.is_down = False

    async def finish(self, outcomes: Sequence[Outcome]) -> list[str]:
        self.calls.append([one.run_id for one in outcomes])
        answer = trio.Event()
        self._answers.append(answer)
        await answer.wait()
        if self.is_down:
            raise StoreUnavailable("for a while")
        return ["succeeded"] * len(outcomes)

    async def answer(self, call: int = 0) -> None:
        self._answers.pop(call).set()
        await trio.testing.wait_all_tasks_blocked()


class Desk:
    """An outbox that runs, and what has become of what was put there."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.link, self.settled = Slow(), list[str]()
        self.outbox = Outbox(cast(Link, self.link), lambda outcome, state: self.settled.append(outcome.run_id))
        nursery.start_soon(self.outbox.run)

    async def put(self, names: str) -> None:
        for name in names:
            self.outbox.put(Outcome(name, 1, "succeeded"))
        await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
async def desk(nursery: trio.Nursery) -> Desk:
    desk = Desk(nursery)
    await trio.testing.wait_all_tasks_blocked()
    return desk


async def test_those_of_one_moment_leave_together(desk: Desk) -> None:
    await desk.put("abc")
    assert desk.link.calls == [["a", "b", "c"]]
    await desk.link.answer()
    assert desk.settled == ["a", "b", "c"]


async def test_the_next_leave_while_the_first_are_under_way_and_the_others_gather(desk: Desk) -> None:
    for name in "abcde":
        await desk.put(name)
    assert desk.link.calls == [["a"], ["b"]]
    await desk.link.answer(1)
    assert desk.link.calls == [["a"], ["b"], ["c", "d", "e"]]
    assert desk.settled == ["b"]


async def test_an_outcome_is_in_here_until_it_is_recorded(desk: Desk) -> None:
    await desk.put("aa")  # two attempts of one run
    assert "a" in desk.outbox
    await desk.link.answer()
    assert "a" not in desk.outbox
    await desk.put("b")
    assert "b" in desk.outbox


async def test_what_could_not_be_recorded_goes_again_before_what_came_later(
    desk: Desk, autojump_clock: trio.testing.MockClock
) -> None:
    desk.link.is_down = True
    await desk.put("ab")
    await desk.link.answer()
    await desk.put("c")
    desk.link.is_down = False
    while len(desk.settled) < 3:
        await trio.sleep(1)
        if desk.link._answers:
            await desk.link.answer()
    assert desk.link.calls == [["a", "b"], ["a", "b", "c"]]
    assert not any(name in desk.outbox for name in "abc")


async def test_a_worker_is_told_when_too_many_wait(desk: Desk) -> None:
    for number in range(2000):
        desk.outbox.put(Outcome(str(number), 1, "succeeded"))
    assert not desk.outbox.is_full
    desk.outbox.put(Outcome("one more", 1, "succeeded"))
    assert desk.outbox.is_full
    await trio.testing.wait_all_tasks_blocked()
    assert [len(call) for call in desk.link.calls] == [500, 500]
