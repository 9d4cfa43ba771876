"""What the walks have found, each as the shortest way to it. Time is given, not waited for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskman.model.ids import new_run_id, scheduled_run_id
from taskman.model.run import Run, RunSpec
from taskman.model.states import State
from taskman.model.task import TaskDefinition
from taskman.store.runs import Outcome, Submission
from taskman.store.store import Store
from taskman.store.tasks import Due, Fire, Firing

NOW = 1_800_000_000_000
LEASE_MS = 20_000


def spec(**changes: object) -> RunSpec:
    return RunSpec(**{"type": "shell", "params": {"command": "true"}, **changes})  # type: ignore[arg-type]


async def submit(
    store: Store, due_ms: int = 0, now_ms: int = NOW, overlap: str | None = None, **changes: object
) -> str:
    submission = Submission(new_run_id(), spec(**changes), due_ms, overlap=overlap)
    return (await store.runs.submit([submission], by="test", now_ms=now_ms))[0].run_id


async def claim(store: Store, limit: int = 10, now_ms: int = NOW, signatures: Sequence[str] = ()) -> list[str]:
    served = signatures or await store.runs.signatures()
    return [one.run_id for one in await store.runs.claim("w1", limit, served, lease_ms=LEASE_MS, now_ms=now_ms)]


async def finish(store: Store, *run_ids: str, outcome: str = "succeeded", now_ms: int = NOW) -> None:
    runs = await store.runs.get_many(run_ids)
    await store.runs.finish("w1", [Outcome(run.id, run.attempt, outcome) for run in runs], now_ms=now_ms)


async def states(store: Store, run_id: str) -> list[str]:
    return [entry.state for entry in (await store.runs.get(run_id)).history]


async def with_state(store: Store, state: State) -> set[str]:
    return {run.id for run in (await store.runs.page(states=[state])).runs}


# Suspicion


async def test_a_suspect_run_that_ends_is_suspect_no_more(store: Store) -> None:
    run_id = await submit(store)
    await claim(store)
    await store.runs.reclaim_expired(now_ms=NOW + LEASE_MS)
    await finish(store, run_id)
    run = await store.runs.get(run_id)
    assert (run.state, run.suspect) == (State.SUCCEEDED, False)


async def test_an_attempt_after_a_suspect_one_has_a_grace_of_its_own(store: Store) -> None:
    run_id = await submit(store)
    await claim(store)
    later = NOW + LEASE_MS
    await store.runs.reclaim_expired(now_ms=later)
    await finish(store, run_id, outcome="retry", now_ms=later)
    await store.runs.promote(now_ms=later)
    assert await claim(store, now_ms=later) == [run_id]
    assert await store.runs.reclaim_expired(now_ms=later + LEASE_MS) == (1, 0)


# Permits


async def test_a_run_that_wants_a_permit_to_itself_does_not_hold_up_those_that_can_share_it(store: Store) -> None:
    holders = [await submit(store, permits={"limit/db": 3}) for _ in range(3)]
    await claim(store)
    alone = await submit(store, permits={"limit/db": 1})
    sharing = await submit(store, permits={"limit/db": 3})
    assert await claim(store) == []
    await finish(store, holders[0])
    assert await claim(store) == [sharing]
    assert await with_state(store, State.BLOCKED) == {alone}


async def test_a_run_that_lacks_its_second_permit_passes_its_turn_at_the_first_on(store: Store) -> None:
    first, second = await submit(store, permits={"limit/a": 1}), await submit(store, permits={"limit/b": 1})
    await claim(store)
    both = await submit(store, permits={"limit/a": 1, "limit/b": 1})
    one = await submit(store, permits={"limit/a": 1})
    assert await claim(store) == []
    await finish(store, first)
    assert await claim(store, 1) == []
    assert await claim(store, 1) == [one]
    await finish(store, one, second)
    assert await claim(store) == [both]


async def test_a_paused_queue_does_not_keep_a_shared_limit_from_other_queues(store: Store) -> None:
    holder = await submit(store, permits={"limit/db": 1})
    await claim(store)
    await submit(store, permits={"limit/db": 1}, queue="paused")
    other = await submit(store, permits={"limit/db": 1}, queue="other")
    await claim(store)
    await store.queues.pause("paused", paused=True)
    await finish(store, holder)
    assert await claim(store) == [other]


async def test_runs_that_no_worker_serves_do_not_keep_a_shared_limit_from_others(store: Store) -> None:
    holder = await submit(store, permits={"limit/db": 1})
    await claim(store)
    await submit(store, permits={"limit/db": 1}, requires={"gpu": "yes"})
    other = await submit(store, permits={"limit/db": 1})
    await claim(store)
    await finish(store, holder)
    assert await claim(store, signatures=[spec().signature]) == [other]


async def test_a_run_that_was_blocked_has_kept_its_place(store: Store) -> None:
    holder = await submit(store, permits={"limit/db": 1})
    await claim(store)
    blocked = await submit(store, permits={"limit/db": 1})
    await claim(store, now_ms=NOW + 50_000)
    late = await submit(store, permits={"limit/db": 1}, now_ms=NOW + 60_000)
    await finish(store, holder, now_ms=NOW + 90_000)
    assert await claim(store, 1, now_ms=NOW + 90_000) == [blocked]
    assert (await store.runs.get(late)).state is State.QUEUED


async def test_as_many_are_unblocked_as_there_is_room_for_when_several_end_at_once(store: Store) -> None:
    holders = [await submit(store, permits={"limit/db": 3}) for _ in range(3)]
    await claim(store)
    waiting = [await submit(store, permits={"limit/db": 3}) for _ in range(9)]
    await claim(store)
    await finish(store, *holders)
    assert await with_state(store, State.QUEUED) == set(waiting[:3])


# Unique keys


async def test_a_skipped_run_leaves_its_unique_key_free(store: Store) -> None:
    group: dict[str, Any] = {"permits": {"task/nightly": 1}, "group": "task/nightly"}
    running = await submit(store, **group)
    await claim(store)
    skipped = await submit(store, overlap="skip", unique="aa:active", **group)
    assert (await store.runs.get(skipped)).state is State.SKIPPED
    await finish(store, running)
    again = await submit(store, overlap="skip", unique="aa:active", **group)
    assert again != skipped


async def fire(store: Store, name: str, due_ms: int, revision: int, overlap: str | None, **changes: object) -> Run:
    run_id = scheduled_run_id(0, name, "0", due_ms)
    wanted = spec(task=name, trigger="schedule", **changes)
    due = Due(name, 0, due_ms)
    planned = Fire(
        due=due,
        revision=revision,
        next_ms=due_ms + 60_000,
        runs=[Firing(fire_time_ms=due_ms, due_ms=due_ms, run_id=run_id, spec=wanted, overlap=overlap)],
    )
    assert await store.tasks.fire([planned], now_ms=due_ms) == [True]
    return await store.runs.get(run_id)


def every_minute() -> TaskDefinition:
    schedules = [{"every": "1m", "anchor": "2027-01-15T08:00:00Z"}]
    return TaskDefinition.model_validate({"name": "nightly", "type": "shell", "params": {}, "schedules": schedules})


async def test_a_schedule_makes_no_second_run_of_a_unique_key(store: Store) -> None:
    task = await store.tasks.save(every_minute(), NOW)
    assert task.next_ms is not None
    await submit(store, unique="aa:active")
    fired = await fire(store, "nightly", task.next_ms, task.revision, None, unique="aa:active")
    assert (fired.state, fired.reason) == (State.SKIPPED, "overlap")
    assert [entry.outcome for entry in await store.tasks.ledger("nightly")] == ["skipped"]


async def test_a_run_that_a_schedule_made_holds_its_unique_key(store: Store) -> None:
    task = await store.tasks.save(every_minute(), NOW)
    assert task.next_ms is not None
    fired = await fire(store, "nightly", task.next_ms, task.revision, None, unique="aa:active")
    assert await submit(store, unique="aa:active") == fired.id


async def test_an_instant_that_comes_twice_keeps_its_one_outcome(store: Store) -> None:
    task = await store.tasks.save(every_minute(), NOW)
    assert task.next_ms is not None
    group: dict[str, Any] = {"permits": {"task/nightly": 1}, "group": "task/nightly"}
    await submit(store, **group)
    for revision in (1, 2):
        assert (await fire(store, "nightly", task.next_ms, revision, "skip", **group)).state is State.SKIPPED
        await store.tasks.save(every_minute(), NOW)
    assert [entry.outcome for entry in await store.tasks.ledger("nightly")] == ["skipped"]


async def test_an_adopted_run_is_pending_no_more(store: Store) -> None:
    waiting = await submit(store, unique="aa:pending")
    assert await store.runs.adopt("w1", [(waiting, 1)], lease_ms=LEASE_MS) == 1
    assert await submit(store, unique="aa:pending") != waiting


# Deadlines


async def test_a_start_deadline_holds_when_nobody_was_there_to_promote_the_run(store: Store) -> None:
    run_id = await submit(store, NOW + 1_000, start_deadline_s=5.0)
    assert await store.runs.expire(now_ms=NOW + 6_000) == 1
    run = await store.runs.get(run_id)
    assert (run.state, run.reason) == (State.FAILED, "expired")


async def test_the_deadline_of_a_run_for_later_begins_when_it_is_due(store: Store) -> None:
    run_id = await submit(store, NOW + 60_000, deadline_s=10.0)
    assert await store.runs.expire(now_ms=NOW + 60_000) == 0
    assert await store.runs.expire(now_ms=NOW + 70_000) == 1
    assert (await store.runs.get(run_id)).reason == "deadline"


# Cancelling


async def test_a_run_that_its_worker_ends_as_cancelled_unasked_takes_the_arrows_there_are(store: Store) -> None:
    run_id = await submit(store)
    await claim(store)
    await finish(store, run_id, outcome="cancelled")
    assert await states(store, run_id) == ["queued", "running", "cancelling", "cancelled"]
