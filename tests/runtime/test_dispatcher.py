"""The dispatcher calls as many workers as there is work for, and loses no call."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from taskman.model.admission import Node
from taskman.model.ids import new_run_id
from taskman.model.run import RunSpec
from taskman.runtime.dispatcher import Dispatcher
from taskman.runtime.link_local import LocalLink
from taskman.store.runs import Outcome, Submission
from taskman.store.store import Store


class Crowd:
    """Workers that wait, each for `slots` runs, and take part once."""

    def __init__(self, store: Store, nursery: trio.Nursery, dispatcher: Dispatcher) -> None:
        self._store, self._nursery, self._dispatcher = store, nursery, dispatcher
        self.claims = 0
        self.taken: dict[str, list[str]] = {}
        self.stack = ExitStack()
        claim = store.runs.claim

        async def counted(*arguments: Any, **more: Any) -> Any:
            self.claims += 1
            return await claim(*arguments, **more)

        store.runs.claim = counted  # type: ignore[method-assign]

    def join(self, name: str, slots: int = 1, **changes: Any) -> None:
        self.wait_again(self.link(name, slots, **changes), slots)

    def link(self, name: str, slots: int = 1, **changes: Any) -> LocalLink:
        types = frozenset(changes.pop("types", {"shell"}))
        node = Node(id=name, types=types, labels={}, slots=slots, running=0, **changes)
        link = LocalLink(self._store, node, dispatcher=self._dispatcher)
        self.stack.enter_context(link.seated())
        return link

    def wait_again(self, link: LocalLink, slots: int) -> None:
        self._nursery.start_soon(self._wait, link, slots)

    async def _wait(self, link: LocalLink, slots: int) -> None:
        claim = await link.claim(lambda: slots)
        self.taken[link.worker] = [one.run_id for one in claim.assignments]

    async def until_taken(self, count: int) -> None:
        with trio.fail_after(10):
            while sum(map(len, self.taken.values())) < count:
                await trio.sleep(0.01)


@pytest.fixture
async def crowd(store: Store, nursery: trio.Nursery) -> Crowd:
    dispatcher = Dispatcher(store)
    await nursery.start(dispatcher.run)
    return Crowd(store, nursery, dispatcher)


async def submit(store: Store, count: int = 1, **options: Any) -> list[str]:
    specs = [Submission(new_run_id(), RunSpec(type=options.get("type", "shell"), params={})) for _ in range(count)]
    return [receipt.run_id for receipt in await store.runs.submit(specs, by="test")]


async def settled(crowd: Crowd) -> int:
    """The number of claims once everybody waits."""
    await wait_all_tasks_blocked(0.1)
    return crowd.claims


async def test_one_run_wakes_one_of_many_workers(store: Store, crowd: Crowd) -> None:
    [first] = await submit(store)
    await store.runs.cancel(first, by="test")  # the signature is known from now on
    for number in range(100):
        crowd.join(f"w{number}")
    before = await settled(crowd)
    await submit(store)
    await crowd.until_taken(1)
    assert await settled(crowd) - before <= 3


async def test_a_worker_that_was_given_all_there_was_asks_no_more_until_it_is_called(
    store: Store, crowd: Crowd
) -> None:
    link = crowd.link("w1", slots=4)
    await submit(store)
    assert len((await link.claim(lambda: 4)).assignments) == 1
    await wait_all_tasks_blocked(0.1)  # the event of that run may have come after the claim
    for expected in (1, 3):
        before = crowd.claims
        crowd.wait_again(link, 4)
        assert await settled(crowd) <= before + 1
        asked = crowd.claims
        await submit(store, expected)
        await crowd.until_taken(expected)
        assert crowd.claims - asked == 1
        crowd.taken.clear()


async def test_what_is_queued_while_nobody_waits_is_asked_for(store: Store, crowd: Crowd) -> None:
    link = crowd.link("w1", slots=4)
    await submit(store)
    await link.claim(lambda: 4)
    await wait_all_tasks_blocked(0.1)
    await submit(store, 2)
    await wait_all_tasks_blocked(0.1)
    with trio.fail_after(5):
        assert len((await link.claim(lambda: 4)).assignments) == 2


async def test_a_run_that_is_submitted_here_is_claimed_without_its_event(
    store: Store, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd.join("w1", slots=4)
    await settled(crowd)
    monkeypatch.setattr(crowd._dispatcher, "_notice", lambda batch: None)
    [run_id] = await submit(store)
    await crowd.until_taken(1)
    assert crowd.taken == {"w1": [run_id]}


async def test_a_claim_that_was_ahead_of_its_run_loses_no_call(store: Store, crowd: Crowd) -> None:
    crowd.join("w1")
    crowd.join("w2")
    before = await settled(crowd)
    late = [Submission(new_run_id(), RunSpec(type="shell", params={}))]
    crowd._dispatcher.foresee(late)
    assert await settled(crowd) == before + 1
    store.runs.before_submit.clear()  # as if the script had to be loaded first
    await store.runs.submit(late, by="test")
    await crowd.until_taken(1)


async def test_a_worker_that_leaves_while_it_is_called_ahead_loses_no_call(store: Store, crowd: Crowd) -> None:
    leaving = trio.CancelScope()
    leaver = crowd.link("leaver")
    crowd._nursery.start_soon(leave_with, leaver, leaving)
    await settled(crowd)
    crowd.join("stayer")
    await settled(crowd)
    late = [Submission(new_run_id(), RunSpec(type="shell", params={}))]
    crowd._dispatcher.foresee(late)
    leaving.cancel()
    store.runs.before_submit.clear()
    await store.runs.submit(late, by="test")
    await crowd.until_taken(1)
    assert list(crowd.taken) == ["stayer"]


async def leave_with(link: LocalLink, leaving: trio.CancelScope) -> None:
    with leaving:
        await link.claim(lambda: 1)


async def test_what_is_submitted_for_later_or_in_bulk_calls_nobody_ahead(store: Store, crowd: Crowd) -> None:
    crowd.join("w1", slots=100)
    before = await settled(crowd)
    later = Submission(new_run_id(), RunSpec(type="shell", params={}), await store.runs.now() + 60_000)
    crowd._dispatcher.foresee([later])
    crowd._dispatcher.foresee([Submission(new_run_id(), RunSpec(type="shell", params={})) for _ in range(21)])
    assert await settled(crowd) == before


async def test_a_run_behind_thousands_that_are_blocked_does_not_wait(store: Store, crowd: Crowd) -> None:
    blocked = RunSpec(type="shell", params={}, permits={"limit/database": 1})
    await store.runs.submit([Submission(new_run_id(), blocked) for _ in range(2_100)], by="test")
    [plain] = await submit(store)
    crowd.join("first")
    await crowd.until_taken(1)
    crowd.join("second")
    await crowd.until_taken(2)
    assert crowd.taken["second"] == [plain]


async def test_many_runs_wake_as_many_workers_as_they_need(store: Store, crowd: Crowd) -> None:
    for number in range(40):
        crowd.join(f"w{number}", slots=4)
    await submit(store, 60)
    await crowd.until_taken(60)
    assert await settled(crowd) <= 40 + 30


async def test_a_backlog_reaches_every_worker_that_comes(store: Store, crowd: Crowd) -> None:
    await submit(store, 30)
    for number in range(30):
        crowd.join(f"w{number}")
    await crowd.until_taken(30)


async def test_a_resumed_queue_reaches_all_whose_help_is_needed(store: Store, crowd: Crowd) -> None:
    await store.queues.pause("default", paused=True)
    await submit(store, 30)
    for number in range(40):
        crowd.join(f"w{number}")
    await settled(crowd)
    assert crowd.taken == {}
    await store.queues.pause("default", paused=False)
    await crowd.until_taken(30)


async def test_a_call_that_its_worker_cannot_answer_is_passed_on(store: Store, crowd: Crowd) -> None:
    [first] = await submit(store)
    await store.runs.cancel(first, by="test")
    leaving = trio.CancelScope()

    async def leave() -> None:
        node = Node(id="leaver", types=frozenset({"shell"}), labels={}, slots=1, running=0)
        link = LocalLink(store, node, dispatcher=crowd._dispatcher)
        with link.seated(), leaving:
            await link.claim(lambda: 1)

    crowd._nursery.start_soon(leave)
    await settled(crowd)
    crowd.join("stayer")
    before = await settled(crowd)
    [seat] = crowd._dispatcher._seats["leaver"]
    seat.call("shell|default|")
    leaving.cancel()
    await settled(crowd)
    assert crowd.claims == before + 1
    await submit(store)
    await crowd.until_taken(1)
    assert list(crowd.taken) == ["stayer"]


async def test_workers_of_other_types_are_left_in_peace(store: Store, crowd: Crowd) -> None:
    for number in range(20):
        crowd.join(f"other{number}", types={"http"})
    crowd.join("right")
    before = await settled(crowd)
    await submit(store)
    await crowd.until_taken(1)
    assert list(crowd.taken) == ["right"]
    assert crowd.claims - before <= 2


async def test_a_given_back_run_is_offered_again(store: Store, crowd: Crowd) -> None:
    crowd.join("first")
    [run_id] = await submit(store)
    await crowd.until_taken(1)
    crowd.join("second")
    await settled(crowd)
    await store.runs.finish("first", [Outcome(run_id, 1, "released")])
    await crowd.until_taken(2)
    assert crowd.taken["second"] == [run_id]
