"""Lists of runs: every filter, alone and with others, and how much of the store one page may look at."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from taskman.model.ids import scheduled_run_id
from taskman.model.run import Run, RunSpec
from taskman.model.states import FINAL, State
from taskman.store import listing
from taskman.store.listing import Page
from taskman.store.runs import Outcome, Submission
from taskman.store.store import Store

NOW = 1_800_000_000_000
SECOND = 1000


async def submit(store: Store, at_ms: int, type: str = "shell", **options: Any) -> str:
    params = options.pop("params", {})
    run_id = scheduled_run_id(0, "any", "0", at_ms)  # new ids never go back in time
    spec = RunSpec(type=type, params=params, **options)
    await store.runs.submit([Submission(run_id, spec)], by="test", now_ms=at_ms)
    return run_id


@pytest.fixture
async def runs(store: Store) -> list[Run]:
    """A hundred runs a second apart, the oldest first, of every kind and in most states."""
    chance = random.Random(7)
    made = []
    for number in range(100):
        options: dict[str, Any] = {
            "type": chance.choice(("shell", "http")),
            "queue": chance.choice(("default", "slow")),
            "task": chance.choice((None, "nightly", "hourly")),
            "params": {"command": f"backup {number}", "list": [{"Name": chance.choice(("Anna", "Ömer"))}]},
        }
        made.append(await submit(store, NOW + number * SECOND, **options))
    for worker in ("w1", "w2"):
        claimed = await store.runs.claim(worker, 35, await store.runs.signatures(), lease_ms=40_000)
        ended = [Outcome(one.run_id, 1, chance.choice(("succeeded", "failed")), error="Disk full") for one in claimed]
        await store.runs.finish(worker, ended[:25])
    return [await store.runs.get(run_id) for run_id in made]


async def pages(store: Store, limit: int = 10, **filters: Any) -> list[Page]:
    """Every page, from the first to the last."""
    found, cursor = [], None
    while True:
        found.append(await store.runs.page(limit=limit, cursor=cursor, **filters))
        assert len(found[-1].runs) <= limit
        if (cursor := found[-1].next_cursor) is None:
            return found


async def ids(store: Store, limit: int = 10, **filters: Any) -> list[str]:
    return [run.id for page in await pages(store, limit, **filters) for run in page.runs]


FILTERS: dict[str, tuple[list[Any], Callable[[Run, Any], bool]]] = {
    "states": ([[State.RUNNING], sorted(FINAL)], lambda run, wanted: run.state in wanted),
    "task": (["nightly", "nobody"], lambda run, wanted: run.spec.task == wanted),
    "type": (["http", "nothing"], lambda run, wanted: run.spec.type == wanted),
    "queue": (["slow", "none"], lambda run, wanted: run.spec.queue == wanted),
    "worker": (["w1", "w2", "w3"], lambda run, wanted: run.worker == wanted),
    "since_ms": ([NOW + 40 * SECOND, -5], lambda run, wanted: run.created_ms >= wanted),
    "until_ms": ([NOW + 70 * SECOND, -5], lambda run, wanted: run.created_ms < wanted),
    "text": (["DISK", "ömer", "backup 9", "name", "w1", "succeeded"], lambda run, wanted: wanted.lower() in words(run)),
}


def words(run: Run) -> str:
    spec = run.spec
    params = f"command {spec.params['command']} list Name {spec.params['list'][0]['Name']}"
    return f"{run.id}\n{spec.task}\n{spec.type}\n{spec.queue}\n{run.worker}\n{run.error}\n{params}".lower()


@pytest.mark.parametrize("name", FILTERS)
async def test_a_filter_lets_through_what_it_says(store: Store, runs: list[Run], name: str) -> None:
    values, matches = FILTERS[name]
    for value in values:
        assert await ids(store, **{name: value}) == [run.id for run in reversed(runs) if matches(run, value)], value


@pytest.mark.parametrize("most", [listing.MOST_LOOKED_AT, 30])
async def test_filters_together_find_each_match_once_in_order(
    store: Store, runs: list[Run], monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(listing, "MOST_LOOKED_AT", most)
    monkeypatch.setattr(listing, "_BATCH", 20)
    monkeypatch.setattr(listing, "_SEARCHED", 7)
    chance = random.Random(3)
    for _ in range(60):
        names = chance.sample(sorted(FILTERS), chance.choice((2, 3, 4)))
        filters = {name: chance.choice(FILTERS[name][0]) for name in names}
        wanted = [run.id for run in reversed(runs) if all(FILTERS[name][1](run, one) for name, one in filters.items())]
        assert await ids(store, chance.choice((1, 10, 1000)), **filters) == wanted, filters


async def test_time_is_when_a_run_was_created_and_of_late_ones_the_instant_of_their_id(store: Store) -> None:
    soon, late = (scheduled_run_id(0, "any", "0", NOW + number) for number in range(2))
    for run_id, at_ms in ((soon, NOW + 59_000), (late, NOW + 61_000)):
        await store.runs.submit([Submission(run_id, RunSpec(type="shell", params={}))], by="test", now_ms=at_ms)
    assert await ids(store, since_ms=NOW + 59_000) == [soon]
    assert await ids(store, since_ms=NOW + 59_001) == []
    assert await ids(store, until_ms=NOW + 59_000) == [late]
    assert await ids(store, until_ms=NOW + 59_001, text="shell") == [late, soon]
    assert await ids(store, since_ms=NOW + 1, until_ms=NOW + 2) == [late]


async def test_an_empty_filter_is_none(store: Store, runs: list[Run]) -> None:
    every = [run.id for run in reversed(runs)]
    assert await ids(store, task=None, type="", worker=None, text="", states=(), since_ms=None) == every


async def test_a_page_looks_at_so_many_runs_and_its_cursor_goes_on(
    store: Store, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MOST_LOOKED_AT", 40)
    monkeypatch.setattr(listing, "_BATCH", 20)
    found = await pages(store, queue="none")
    assert [page.runs for page in found] == [[], [], []]
    assert found[0].next_cursor == runs[60].id
    assert found[1].next_cursor == runs[20].id
    assert found[2].next_cursor is None
    oldest = await submit(store, NOW - SECOND, queue="none")
    found = await pages(store, queue="none")
    assert [[run.id for run in page.runs] for page in found] == [[], [], [oldest]]


async def test_what_is_in_an_index_takes_no_search(
    store: Store, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MOST_LOOKED_AT", 1)
    for filters in ({}, {"states": [State.QUEUED]}, {"task": "nightly"}):
        for page in (await pages(store, 5, **filters))[:-1]:
            assert len(page.runs) == 5, filters


async def test_a_run_that_goes_on_while_it_is_listed_is_not_shown_in_a_state_that_it_left(
    store: Store, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = store.runs.get_many

    async def slow(run_ids: Any) -> list[Run]:
        await store.runs.cancel(run_ids[0], by="test")
        return await load(run_ids)

    monkeypatch.setattr(store.runs, "get_many", slow)
    page = await store.runs.page(states=[State.QUEUED], limit=5)
    assert [run.state for run in page.runs] == [State.QUEUED] * 4
    assert page.next_cursor is not None


async def test_an_id_without_a_run_in_an_index_is_passed_over(store: Store, runs: list[Run]) -> None:
    stray = scheduled_run_id(0, "any", "0", NOW + 1000 * SECOND)
    await store.connection.execute("ZADD", "tm:{0}:state:queued", 0, stray)
    for filters in ({"text": "backup"}, {"type": "shell"}, {"worker": "w1"}, {"states": [State.QUEUED]}):
        assert stray not in await ids(store, **filters)
