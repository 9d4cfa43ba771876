"""The scheduler on a real store: what is planned ahead of its instant fires on it, and only if it is still right."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio

from taskman.errors import StoreError
from taskman.model.instants import format_instant
from taskman.model.run import Run
from taskman.model.task import Task, TaskDefinition
from taskman.runtime.scheduler import Scheduler, plan
from taskman.store.store import Store
from taskman.store.tasks import Due, Fire

Between = Callable[[], Awaitable[None]]


def definition(name: str, at_ms: int, command: str = "true", **changes: Any) -> TaskDefinition:
    schedules = [{"at": format_instant(at_ms)}]
    body = {"name": name, "type": "shell", "params": {"command": command}, "schedules": schedules, **changes}
    return TaskDefinition.model_validate(body)


async def soon(store: Store, after_ms: int = 500) -> int:
    return await store.runs.now() + after_ms


async def runs(store: Store, count: int) -> list[Run]:
    """So many runs, in the order in which they were made."""
    with trio.fail_after(30):
        while len(found := (await store.runs.page(limit=100)).runs) < count:
            await trio.sleep(0.01)
    return sorted(found, key=lambda run: (run.created_ms, run.id))


def meddle(store: Store, monkeypatch: pytest.MonkeyPatch, between: Between) -> None:
    """Do something once when a plan is made ahead: after its tasks have been read, before it is committed."""
    get_many, waiting = store.tasks.get_many, [between]

    async def read_and_be_overtaken(names: Sequence[str]) -> list[Task]:
        found = await get_many(names)
        if found and waiting:
            await waiting.pop()()
        return found

    monkeypatch.setattr(store.tasks, "get_many", read_and_be_overtaken)


async def test_each_instant_fires_on_time_and_none_early(store: Store, nursery: trio.Nursery) -> None:
    await nursery.start(Scheduler(store).run)
    begin = await soon(store)
    for number in range(30):
        await store.tasks.save(definition(f"t{number}", begin + number * 40), await store.runs.now())
    found = await runs(store, 30)
    assert [run.spec.task for run in found] == [f"t{number}" for number in range(30)]
    assert all(run.created_ms >= (run.spec.fire_time_ms or 0) for run in found)


async def test_many_that_are_due_together_all_fire(store: Store, nursery: trio.Nursery) -> None:
    due = await soon(store, 1500)
    for number in range(300):
        await store.tasks.save(definition(f"t{number}", due), await store.runs.now())
    await nursery.start(Scheduler(store).run)
    with trio.fail_after(30):
        while await store.tasks.agenda(1):
            await trio.sleep(0.01)
    assert len((await store.runs.page(limit=1000)).runs) == 300


async def test_a_task_that_is_edited_after_it_was_planned_fires_as_it_is_now(
    store: Store, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = await soon(store)
    await store.tasks.save(definition("t", due, "old"), await store.runs.now())

    async def edit() -> None:
        await store.tasks.save(definition("t", due, "new"), await store.runs.now())

    meddle(store, monkeypatch, edit)
    await nursery.start(Scheduler(store).run)
    (run,) = await runs(store, 1)
    assert run.spec.params == {"command": "new"}


async def test_a_task_that_is_deleted_after_it_was_planned_does_not_fire(
    store: Store, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = await soon(store)
    await store.tasks.save(definition("gone", due), await store.runs.now())
    await store.tasks.save(definition("there", due + 1), await store.runs.now())
    meddle(store, monkeypatch, lambda: store.tasks.delete("gone"))
    await nursery.start(Scheduler(store).run)
    assert [run.spec.task for run in await runs(store, 1)] == ["there"]


async def test_what_is_saved_while_something_later_is_planned_fires_first(
    store: Store, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = await soon(store)
    await store.tasks.save(definition("later", due), await store.runs.now())

    async def save_earlier() -> None:
        await store.tasks.save(definition("earlier", due - 60), await store.runs.now())

    meddle(store, monkeypatch, save_earlier)
    await nursery.start(Scheduler(store).run)
    found = await runs(store, 2)
    assert {run.spec.task for run in found} == {"earlier", "later"}
    assert found[0].spec.task == "earlier" or found[0].created_ms == found[1].created_ms  # a busy machine: both late


async def test_a_plan_is_made_anew_after_the_process_stood_still(
    store: Store, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    due, read, asked = await soon(store), store.tasks.due, []

    async def note(now_ms: int, limit: int = 200) -> list[Due]:
        asked.append(now_ms)
        return await read(now_ms, limit)

    async def stand_still() -> None:
        time.sleep(1.5)  # noqa: ASYNC251  # the whole process, as by SIGSTOP

    monkeypatch.setattr(store.tasks, "due", note)
    meddle(store, monkeypatch, stand_still)
    await store.tasks.save(definition("t", due), await store.runs.now())
    await nursery.start(Scheduler(store).run)
    await runs(store, 1)
    assert asked[0] == due
    assert asked[1] > due + 1000


async def test_of_two_schedulers_one_fires(store: Store, nursery: trio.Nursery) -> None:
    replies: list[bool] = []
    fire = store.tasks.fire

    async def note(fires: Sequence[Fire], *, now_ms: int = 0) -> list[bool]:
        done = await fire(fires, now_ms=now_ms)
        replies.extend(done)
        return done

    store.tasks.fire = note  # type: ignore[method-assign]
    for _ in range(2):
        await nursery.start(Scheduler(store).run)
    due = await soon(store)
    for number in range(20):
        await store.tasks.save(definition(f"t{number}", due), await store.runs.now())
    assert len(await runs(store, 20)) == 20
    assert replies.count(True) == 20


async def test_it_goes_on_when_the_store_refuses_once(
    store: Store, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse() -> None:
        raise StoreError("full")

    meddle(store, monkeypatch, refuse)
    await store.tasks.save(definition("t", await soon(store)), await store.runs.now())
    await nursery.start(Scheduler(store).run)
    assert [run.spec.task for run in await runs(store, 1)] == ["t"]


async def test_the_store_starts_nothing_before_it_is_due_but_lets_it_be_skipped(store: Store) -> None:
    due = await soon(store, 60_000)
    await store.tasks.save(definition("t", due), await store.runs.now())
    early = plan(Due("t", 0, due), await store.tasks.get("t"), due)
    assert await store.tasks.fire([early]) == [False]
    assert await store.tasks.fire([replace(early, runs=[])]) == [True]
    assert (await store.runs.page(limit=10)).runs == []
