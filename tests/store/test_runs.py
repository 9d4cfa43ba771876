"""Runs through every transition, against a real Redis; time is given, not waited for."""

from __future__ import annotations

import pytest
import trio

from taskman.errors import Conflict, NotFound
from taskman.model.events import DueEvent
from taskman.model.ids import new_run_id
from taskman.model.run import RunSpec
from taskman.model.states import State
from taskman.store.runs import Outcome, Submission
from taskman.store.store import Store

LEASE_MS = 20_000
GRACE_MS = 20_000
NOW = 1_800_000_000_000


def spec(**changes: object) -> RunSpec:
    return RunSpec(**{"type": "shell", "params": {"command": "true"}, **changes})  # type: ignore[arg-type]


async def submit(store: Store, due_ms: int = 0, **changes: object) -> str:
    created = await store.runs.submit([Submission(new_run_id(), spec(**changes), due_ms)], by="test", now_ms=NOW)
    assert created[0].outcome == "created"
    return created[0].run_id


async def claim(store: Store, worker: str = "w1", limit: int = 10, now_ms: int = NOW) -> list[tuple[str, int]]:
    signatures = await store.runs.signatures()
    got = await store.runs.claim(worker, limit, signatures, lease_ms=LEASE_MS, now_ms=now_ms)
    return [(one.run_id, one.attempt) for one in got]


async def finish(store: Store, run_id: str, attempt: int, outcome: str = "succeeded", worker: str = "w1") -> str:
    outcomes = [Outcome(run_id, attempt, outcome, result={"n": 1})]
    return (await store.runs.finish(worker, outcomes, now_ms=NOW + 5))[0]


async def lose(store: Store, claimed_at_ms: int) -> int:
    """Let the lease of what was claimed then run out, and its grace; the time that it is then."""
    assert (await store.runs.reclaim_expired(now_ms=claimed_at_ms + LEASE_MS))[0] > 0
    now_ms = claimed_at_ms + LEASE_MS + GRACE_MS
    assert (await store.runs.reclaim_expired(now_ms=now_ms))[1] > 0
    return now_ms


async def indexed(store: Store, run_id: str) -> list[str]:
    """Every state index that holds the run: there must be one, its own."""
    found = []
    for state in State:
        if await store.connection.execute("ZSCORE", f"tm:{{0}}:state:{state}", run_id) is not None:
            found.append(str(state))
    return found


async def test_a_run_goes_from_submit_to_success(store: Store) -> None:
    run_id = await submit(store, priority=3, env={"A": "ü"})
    assert await claim(store) == [(run_id, 1)]
    assert await finish(store, run_id, 1) == "succeeded"
    run = await store.runs.get(run_id)
    assert [entry.state for entry in run.history] == ["queued", "running", "succeeded"]
    assert run.spec.env == {"A": "ü"}
    assert run.result == {"n": 1}
    assert (run.created_ms, run.started_ms, run.finished_ms) == (NOW, NOW, NOW + 5)
    assert await indexed(store, run_id) == ["succeeded"]
    assert await store.connection.execute("ZCARD", "tm:{0}:leases") == 0


async def test_submitting_an_id_again_changes_nothing(store: Store) -> None:
    one = Submission(new_run_id(), spec())
    await store.runs.submit([one], by="test")
    await claim(store)
    again = await store.runs.submit([one], by="test")
    assert (again[0].outcome, (await store.runs.get(one.id)).state) == ("there", State.RUNNING)


async def test_higher_priority_is_claimed_first_and_equals_in_order(store: Store) -> None:
    ids = [await submit(store, priority=priority) for priority in (0, 5, 0, 1)]
    assert [run_id for run_id, _ in await claim(store)] == [ids[1], ids[3], ids[0], ids[2]]


async def test_waiting_outweighs_priority_after_five_minutes_a_level(store: Store) -> None:
    old = await submit(store)
    await store.runs.submit([Submission(new_run_id(), spec(priority=1))], by="test", now_ms=NOW + 300_001)
    assert (await claim(store, limit=1))[0][0] == old


async def test_a_claim_takes_no_more_than_its_limit_and_only_its_signatures(store: Store) -> None:
    await submit(store, queue="other")
    ids = [await submit(store) for _ in range(3)]
    got = await store.runs.claim("w1", 2, [spec().signature], lease_ms=LEASE_MS)
    assert [one.run_id for one in got] == ids[:2]


async def test_two_workers_never_get_the_same_run(store: Store) -> None:
    ids = [await submit(store) for _ in range(40)]
    taken: list[str] = []

    async def work(worker: str) -> None:
        while got := await claim(store, worker, 3):
            taken.extend(run_id for run_id, _ in got)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(work, f"w{number}")
    assert sorted(taken) == sorted(ids)


async def test_a_stale_attempt_can_change_nothing(store: Store) -> None:
    run_id = await submit(store)
    await claim(store, "w1")
    await lose(store, NOW)
    assert await claim(store, "w2") == [(run_id, 2)]
    before = await store.runs.get(run_id)
    assert await finish(store, run_id, 1, worker="w1") == "stale"
    assert await finish(store, run_id, 2, worker="w1") == "stale"
    assert await store.runs.extend("w1", [(run_id, 1)], lease_ms=LEASE_MS) == ["drop"]
    assert await store.logs.append(run_id, 1, "w1", []) is False
    assert await store.runs.get(run_id) == before


async def test_finishing_twice_is_one_finish(store: Store) -> None:
    run_id = await submit(store)
    await claim(store)
    assert await finish(store, run_id, 1) == "succeeded"
    assert await finish(store, run_id, 1, "failed") == "succeeded"
    assert len((await store.runs.get(run_id)).history) == 3


async def test_a_run_without_renewal_is_suspect_first_and_lost_after_its_grace(store: Store) -> None:
    run_id = await submit(store)
    await claim(store)
    assert await store.runs.reclaim_expired(now_ms=NOW + LEASE_MS - 1) == (0, 0)
    assert await store.runs.reclaim_expired(now_ms=NOW + LEASE_MS) == (1, 0)
    run = await store.runs.get(run_id)
    assert (run.state, run.suspect) == (State.RUNNING, True)
    assert await store.runs.reclaim_expired(now_ms=NOW + LEASE_MS + GRACE_MS - 1) == (0, 0)
    assert await store.runs.reclaim_expired(now_ms=NOW + LEASE_MS + GRACE_MS) == (0, 1)
    run = await store.runs.get(run_id)
    assert (run.state, run.reason, run.suspect) == (State.QUEUED, "lost", False)


async def test_a_heartbeat_or_a_result_clears_the_suspicion(store: Store) -> None:
    beating, ending = await submit(store), await submit(store)
    await claim(store)
    await store.runs.reclaim_expired(now_ms=NOW + LEASE_MS)
    held = [(beating, 1)]
    assert await store.runs.extend("w1", held, lease_ms=LEASE_MS, now_ms=NOW + LEASE_MS + 1) == ["keep"]
    assert (await store.runs.get(beating)).suspect is False
    assert await finish(store, ending, 1) == "succeeded"
    assert await store.runs.reclaim_expired(now_ms=NOW + LEASE_MS + GRACE_MS) == (0, 0)


async def test_the_grace_is_the_runs_own(store: Store) -> None:
    await submit(store, lost_grace_s=3600)
    await claim(store)
    assert await store.runs.reclaim_expired(now_ms=NOW + LEASE_MS) == (1, 0)
    assert await store.runs.reclaim_expired(now_ms=NOW + LEASE_MS + 3_599_999) == (0, 0)
    assert await store.runs.reclaim_expired(now_ms=NOW + LEASE_MS + 3_600_000) == (0, 1)


async def test_a_lease_follows_a_clock_that_jumped_back(store: Store) -> None:
    run_id = await submit(store)
    await claim(store, now_ms=NOW + 7_200_000)
    await store.runs.extend("w1", [(run_id, 1)], lease_ms=LEASE_MS, now_ms=NOW)
    assert await store.runs.reclaim_expired(now_ms=NOW + LEASE_MS) == (1, 0)


@pytest.mark.parametrize("max_lost", [0, 1, 3])
async def test_a_run_that_loses_every_worker_fails_in_the_end(store: Store, max_lost: int) -> None:
    run_id = await submit(store, max_lost=max_lost)
    now = NOW
    for attempt in range(1, max_lost + 2):
        assert await claim(store, now_ms=now) == [(run_id, attempt)]
        now = await lose(store, now)
    run = await store.runs.get(run_id)
    assert (run.state, run.reason) == (State.FAILED, "lost")
    assert [attempt.state for attempt in run.attempts] == ["lost"] * (max_lost + 1)
    assert await claim(store) == []


async def test_a_returning_worker_gives_back_what_it_held(store: Store) -> None:
    mine, other = await submit(store), await submit(store)
    await claim(store, "w1", 1)
    await claim(store, "w2", 1)
    assert await store.runs.reclaim_from("w1") == 1
    assert (await store.runs.get(mine)).state is State.QUEUED
    assert (await store.runs.get(other)).state is State.RUNNING


async def test_a_released_run_waits_again_and_loses_no_budget(store: Store) -> None:
    run_id = await submit(store)
    for attempt in range(1, 8):
        assert await claim(store) == [(run_id, attempt)]
        assert await finish(store, run_id, attempt, "released") == "queued"
    assert (await store.runs.get(run_id)).attempts[0].state == "released"


async def test_cancelling_a_waiting_run_ends_it_at_once(store: Store) -> None:
    queued, delayed = await submit(store), await submit(store, NOW + 60_000)
    for run_id in (queued, delayed):
        assert await store.runs.cancel(run_id, by="user:A B") is State.CANCELLED
        assert await indexed(store, run_id) == ["cancelled"]
    assert await claim(store) == []
    assert (await store.runs.get(queued)).history[-1].by == "user:A B"
    assert (await store.runs.promote(now_ms=NOW + 60_000)).promoted == 0


async def test_cancelling_a_running_run_waits_for_its_worker(store: Store) -> None:
    run_id = await submit(store)
    await claim(store)
    assert await store.runs.cancel(run_id, by="test") is State.CANCELLING
    assert await store.runs.cancel(run_id, by="test") is State.CANCELLING
    assert await store.runs.extend("w1", [(run_id, 1)], lease_ms=LEASE_MS) == ["cancel"]
    assert await finish(store, run_id, 1, "cancelled") == "cancelled"
    with pytest.raises(Conflict, match="nothing left to cancel"):
        await store.runs.cancel(run_id, by="test")


@pytest.mark.parametrize("outcome", ["released", "lost"])
async def test_a_cancelling_run_that_comes_back_is_cancelled(store: Store, outcome: str) -> None:
    run_id = await submit(store)
    await claim(store)
    await store.runs.cancel(run_id, by="test")
    assert await finish(store, run_id, 1, outcome) == "cancelled"
    assert await claim(store) == []


async def test_a_delayed_run_is_promoted_when_due_not_before(store: Store) -> None:
    run_id = await submit(store, NOW + 60_000)
    early = await store.runs.promote(now_ms=NOW + 59_999)
    assert (early.promoted, early.next_run_ms) == (0, NOW + 60_000)
    assert await claim(store) == []
    assert (await store.runs.promote(now_ms=NOW + 60_000)).promoted == 1
    assert await claim(store) == [(run_id, 1)]


async def test_pages_lead_through_all_runs_newest_first(store: Store) -> None:
    ids = [await submit(store, queue="a" if number % 2 else "b") for number in range(25)]
    await claim(store, limit=5)
    seen: list[str] = []
    cursor = None
    while True:
        page = await store.runs.page(limit=7, cursor=cursor)
        seen += [run.id for run in page.runs]
        if (cursor := page.next_cursor) is None:
            break
    assert seen == ids[::-1]
    running = await store.runs.page(states=[State.RUNNING])
    assert sorted(run.id for run in running.runs) == ids[:5]
    assert {run.spec.queue for run in (await store.runs.page(queue="a", limit=3)).runs} == {"a"}


async def test_an_unknown_run_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound, match="no run"):
        await store.runs.get(new_run_id())
    with pytest.raises(NotFound, match="is not a run id"):
        await store.runs.get("../../etc/passwd")
    with pytest.raises(NotFound):
        await store.runs.cancel(new_run_id(), by="test")


async def test_every_change_is_announced_in_order(store: Store) -> None:
    with store.events.listen() as listener:
        run_id = await submit(store)
        await claim(store)
        await finish(store, run_id, 1)
        states, first_id = [], ""
        with trio.fail_after(5):
            while len(states) < 3:
                batch = await listener.receive()
                first_id = first_id or batch.id
                states += [event.state for event in batch.events if getattr(event, "id", None) == run_id]
    assert states == ["queued", "running", "succeeded"]
    batches = await store.events.since(first_id)
    assert batches is not None
    assert [event.state for batch in batches for event in batch.events] == states[1:]  # type: ignore[union-attr]


async def test_who_listens_for_one_kind_is_woken_by_that_kind_and_by_gaps(store: Store) -> None:
    with store.events.listen(DueEvent) as listener:
        await submit(store)
        later = await store.runs.now() + 60_000
        delayed = Submission(new_run_id(), RunSpec(type="shell", params={}), later)
        await store.runs.submit([delayed], by="test")
        await store.connection.execute("CLIENT", "KILL", "TYPE", "pubsub")
        with trio.fail_after(5):
            first, second = await listener.receive(), await listener.receive()
    assert DueEvent(later) in first.events
    assert second.gap


async def test_events_that_were_trimmed_are_a_gap(store: Store) -> None:
    with store.events.listen() as listener:
        await submit(store)
        first, _ = (await listener.receive()).id, await submit(store)
    assert len(await store.events.since(first) or []) == 1
    await store.connection.execute("XTRIM", "tm:{0}:events", "MAXLEN", 1)
    assert await store.events.since(first) is None


async def test_scripts_survive_a_script_flush(store: Store) -> None:
    await submit(store)
    await store.connection.execute("SCRIPT", "FLUSH")
    assert len(await claim(store)) == 1


async def test_transitions_pass_when_redis_is_full_and_submissions_do_not(store: Store) -> None:
    run_id = await submit(store)
    running = await submit(store)
    await claim(store)
    used = next(
        int(line.partition(b":")[2])
        for line in (await store.connection.execute("INFO", "memory")).splitlines()
        if line.startswith(b"used_memory:")
    )
    await store.connection.execute("CONFIG", "SET", "maxmemory", used // 2)
    with pytest.raises(Exception, match="OOM"):
        await submit(store)
    assert await store.runs.extend("w1", [(run_id, 1), (running, 1)], lease_ms=LEASE_MS) == ["keep", "keep"]
    assert await finish(store, run_id, 1) == "succeeded"
    assert await store.runs.cancel(running, by="test") is State.CANCELLING
