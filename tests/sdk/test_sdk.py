"""What the SDK promises, kept by both clients on a real server, over a network that breaks."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from datetime import datetime, timedelta
from typing import Any

import pytest
import trio
from harness import Server
from network import Network

import taskman
from taskman import (
    AsyncClient,
    Client,
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    Run,
    ServerUnreachable,
    Unauthenticated,
    WaitTimedOut,
)

SLOW_LOG = "i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo line $i; sleep 0.05; done"


def shell(command: str) -> dict[str, str]:
    return {"command": command}


async def texts(lines: Any) -> list[str]:
    return [line.text async for line in lines]


# what both have


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    def methods(kind: type) -> dict[str, list[tuple[str, Any]]]:
        public = {n: m for n, m in inspect.getmembers(kind, inspect.isfunction) if not n.startswith("_")}
        return {
            name.removeprefix("a") if name == "aclose" else name: [
                (one.name, one.default) for one in inspect.signature(method).parameters.values()
            ]
            for name, method in public.items()
        }

    assert methods(Client) == methods(AsyncClient)


def test_every_name_of_the_package_is_there_and_no_other_is() -> None:
    assert set(taskman._HOME) | {"__version__"} == set(taskman.__all__)
    assert len(set(taskman.__all__)) == len(taskman.__all__)
    for name in taskman.__all__:
        assert getattr(taskman, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Klient'"):
        _ = taskman.Klient


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import taskman", ("trio", "httpx2", "pydantic", "click", "pluggy", "taskman.client")),
        ("from taskman import Client", ("trio", "httpx2", "pydantic", "click", "quart", "redis", "taskman.store")),
        ("from taskman import AsyncClient", ("pydantic", "click", "quart", "redis", "taskman.store")),
    ],
)
def test_importing_brings_along_only_what_is_needed(statement: str, absent: tuple[str, ...]) -> None:
    program = f"import sys; {statement}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# runs


async def test_a_run_from_submit_to_result(client: Any) -> None:
    run = await client.submit("shell", shell("echo hello; exit 3"), queue="q", timeout=timedelta(minutes=1))
    assert isinstance(run, Run)
    assert not run.is_final
    ended = await client.wait(run.id)
    assert (ended.state, ended.reason, ended.result["exit_code"], ended.queue) == ("failed", "exit", 3, "q")
    assert ended.raw["history"][0]["by"] == "token:local"
    assert isinstance(ended.finished_at, datetime)
    assert ended.finished_at.tzinfo is not None
    assert (await client.get(run.id)).state == "failed"
    again = await client.retry(run.id, shell("true"))
    assert again.parent == run.id
    assert (await client.wait(again.id)).has_succeeded
    assert [one.id async for one in client.runs(limit=1)] == [again.id, run.id]
    assert [one.id async for one in client.runs(state=["failed"])] == [run.id]
    assert b"".join([part async for part in client.log_bytes(run.id)]) == b"hello\n"


async def test_runs_are_found_by_worker_time_and_text(client: Any) -> None:
    before = datetime.now().astimezone() - timedelta(minutes=1)
    run = await client.wait((await client.submit("shell", shell("echo needle"))).id)
    other = await client.submit("shell", shell("true"), delay="1h")
    assert [one.id async for one in client.runs(worker=run.worker, since=before)] == [run.id]
    assert [one.id async for one in client.runs(q="NEEDLE", until=datetime.now() + timedelta(minutes=1))] == [run.id]
    assert [one.id async for one in client.runs(until=before)] == []
    assert [one.id async for one in client.runs(q=other.id)] == [other.id]


async def test_a_run_that_is_over_can_be_deleted(client: Any) -> None:
    run = await client.submit("shell", shell("sleep 60"))
    with pytest.raises(Conflict, match="cancel it first"):
        await client.delete(run.id)
    await client.cancel(run.id, force=True)
    await client.wait(run.id)
    assert await client.delete(run.id) is None
    with pytest.raises(NotFound):
        await client.get(run.id)
    with pytest.raises(NotFound):
        await client.delete(run.id)


async def test_a_naive_instant_is_local_and_a_duration_is_seconds(client: Any) -> None:
    at = datetime.now() + timedelta(hours=1)
    run = await client.submit("shell", shell("true"), at=at)
    assert abs((run.due_at - at.astimezone()).total_seconds()) < 0.01
    assert (await client.why(run.id))["reasons"][0]["code"]
    cancelled = await client.cancel(run.id)
    assert cancelled.state == "cancelled"
    with pytest.raises(Conflict):
        await client.cancel(run.id)


async def test_refusals_are_exceptions_that_name_the_field(client: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        await client.submit("shell", {"comand": "x"}, prio=1)
    assert {fault.pointer for fault in refused.value.faults} == {"/prio"}
    with pytest.raises(InvalidInput, match="did you mean 'command'"):
        await client.submit("shell", {"comand": "x"})
    with pytest.raises(NotFound):
        await client.get("r0-" + "0" * 23)
    with pytest.raises(NotFound):
        await client.get("..")
    with pytest.raises(NotFound, match="no task 'nowhere'"):
        await client.run_task("nowhere")
    with pytest.raises(InvalidInput, match="cannot be sent as JSON"):
        await client.submit("shell", {"command": object()})


async def test_a_wait_that_runs_out_says_so_and_the_run_goes_on(client: Any) -> None:
    run = await client.submit("shell", shell("sleep 30"))
    with pytest.raises(WaitTimedOut, match=r"after 0\.3 s"):
        await client.wait(run.id, timeout=0.3)
    assert (await client.cancel(run.id, force=True)).state in ("running", "cancelling", "cancelled")
    assert (await client.wait(run.id)).state == "cancelled"


async def test_thousands_are_submitted_in_pieces_in_order(client: Any) -> None:
    bodies: list[dict[str, Any]] = [{"type": "shell", "params": shell("true"), "delay": "1d"} for _ in range(1500)]
    bodies[1200] = {"type": "shel"}
    made = await client.submit_many(bodies)
    assert [place for place, one in enumerate(made) if one.id is None] == [1200]
    assert made[1200].faults[0].pointer == "/type"
    assert len({one.id for one in made}) == 1500
    assert await client.submit_many([]) == []


async def test_a_task_is_read_changed_and_put_back(client: Any) -> None:
    created = await client.create_task({"name": "nightly", "type": "shell", "params": shell("echo $WHO")})
    assert created["enabled"]
    task = await client.task("nightly")
    await client.put_task("nightly", {**task, "env": {"WHO": "me"}})
    run = await client.run_task("nightly")
    assert await texts(client.logs(run.id, follow=True)) == ["me"]
    assert [one["name"] async for one in client.tasks()] == ["nightly"]
    with pytest.raises(Conflict):
        await client.create_task({"name": "nightly", "type": "shell", "params": shell("true")})
    await client.delete_task("nightly")
    with pytest.raises(NotFound):
        await client.task("nightly")


async def test_the_rest_of_the_api(client: Any) -> None:
    run = await client.wait((await client.submit("shell", shell("true"), queue="slow")).id)
    assert run.has_succeeded
    assert (await client.pause_queue("slow"))["paused"]
    assert not (await client.pause_queue("slow", paused=False))["paused"]
    assert "slow" in [one["name"] for one in await client.queues()]
    assert len(await client.workers()) == 1
    assert "shell" in [one["name"] for one in (await client.request("GET", "/task-types"))["items"]]


async def test_only_the_instant_that_was_meant_is_skipped(client: Any) -> None:
    schedules = [{"every": "1h"}]
    await client.create_task({"name": "hourly", "type": "shell", "params": shell("true"), "schedules": schedules})
    due = datetime.fromisoformat((await client.next_of("hourly", 1))[0]["at"])
    assert datetime.fromisoformat((await client.skip_next("hourly", at=due))["skipped"]) == due
    with pytest.raises(Conflict):
        await client.skip_next("hourly", 0, due)


# tokens


async def test_tokens_are_made_used_and_revoked(client: Any, server: Server) -> None:
    made = await client.create_token("read", "reader", timedelta(days=1))
    async with AsyncClient(server.url, made["token"]) as reader:
        assert [run async for run in reader.runs()] == []
        with pytest.raises(Forbidden, match="scope 'run'") as refused:
            await reader.submit("shell", shell("true"))
        assert refused.value.scope == "run"
        assert [one["name"] for one in await client.tokens()] == ["reader"]
        await client.revoke_token(made["id"])
        with pytest.raises(Unauthenticated):
            await reader.get("r0-1")


# a network that breaks


async def test_a_lost_reply_makes_one_run(client: Any, network: Network) -> None:
    network.budgets = [0, 0]
    run = await client.submit("shell", shell("true"))
    assert network.connections == 3
    assert [one.id async for one in client.runs()] == [run.id]


async def test_lost_replies_to_many_make_each_run_once(client: Any, network: Network) -> None:
    network.budgets = [0, 20]
    made = await client.submit_many([{"type": "shell", "params": shell("true")}] * 5)
    assert sorted(one.id for one in made) == sorted([one.id async for one in client.runs()])


async def test_what_may_not_be_repeated_is_not(client: Any, network: Network) -> None:
    await client.create_task({"name": "once", "type": "shell", "params": shell("true")})
    network.budgets = [0]
    async with AsyncClient(network.url, "tm_x", patience_s=1) as fresh:
        with pytest.raises(ServerUnreachable) as lost:
            await fresh.delete_task("once")
    assert lost.value.is_lost_reply


async def test_a_followed_log_has_each_line_once_however_often_it_breaks(
    client: Any, network: Network, server: Server
) -> None:
    with server.client() as direct:
        run_id = direct.post("/runs", json={"type": "shell", "params": shell(SLOW_LOG)}).json()["id"]
    await client.get(run_id)  # a server that has answered may go away
    network.break_all()
    network.budgets = [0, 700, 900, 0, 1100, 1300]
    lines = [(line.attempt, line.line, line.text) async for line in client.logs(run_id, follow=True)]
    assert lines == [(1, number, f"line {number}") for number in range(1, 41)]
    assert network.connections > 6


async def test_a_followed_log_reads_every_attempt(client: Any) -> None:
    run = await client.submit(
        "shell",
        shell("echo try $TASKMAN_ATTEMPT; [ $TASKMAN_ATTEMPT = 2 ]"),
        retry={"max_attempts": 2, "backoff": {"kind": "fixed", "base": 0.1}},
    )
    lines = [(line.attempt, line.text) async for line in client.logs(run.id, follow=True)]
    assert lines == [(1, "try 1"), (2, "try 2")]
    assert await texts(client.logs(run.id, attempt=1)) == ["try 1"]


async def test_nobody_there_is_said_at_once(client: Any) -> None:
    for call in ("get", "wait"):
        async with AsyncClient("http://127.0.0.1:1", "tm_x") as nobody:
            with trio.fail_after(5), pytest.raises(ServerUnreachable, match="taskman up"):
                await getattr(nobody, call)("r0-1")


# cancellation and threads


async def test_a_followed_log_that_is_cancelled_can_be_read_on(server: Server) -> None:
    async with AsyncClient(server.url, server.token) as client:
        run = await client.submit("shell", shell(SLOW_LOG))
        found = []
        async with client.logs(run.id, follow=True) as lines:
            while True:
                with trio.move_on_after(0.07):
                    try:
                        found.append((await anext(lines)).line)
                    except StopAsyncIteration:
                        break
        assert found == [*range(1, 41)]


async def test_iterations_left_midway_end_with_the_client(server: Server) -> None:
    async with AsyncClient(server.url, server.token) as client:
        run = await client.submit("shell", shell("echo begun; sleep 60"))
        async for line in client.logs(run.id, follow=True):
            assert line.text == "begun"
            break
        assert len(client._open) == 1
        await client.cancel(run.id, force=True)
    assert not client._open


async def test_many_tasks_share_a_client(server: Server) -> None:
    async with AsyncClient(server.url, server.token) as client, trio.open_nursery() as nursery:

        async def one() -> None:
            run = await client.submit("shell", shell("true"))
            assert (await client.wait(run.id)).has_succeeded

        for _ in range(20):
            nursery.start_soon(one)


def test_threads_share_a_client(server: Server) -> None:
    with Client(server.url, server.token) as client:
        ended: list[bool] = []

        def one() -> None:
            ended.append(client.wait(client.submit("shell", shell("true")).id).has_succeeded)

        threads = [threading.Thread(target=one) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert ended == [True] * 10
