"""What docs/worker-protocol.md promises of a server, word by word over a bare connection."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
import trio_websocket
from conformance.conftest import Connect, Conversation, Target

Message = dict[str, Any]


def one(run: Message) -> Message:
    return {"run": run["run"], "attempt": run["attempt"]}


async def assigned(conversation: Conversation) -> Message:
    """The one run that is assigned next."""
    [run] = (await conversation.hear("assign"))["runs"]
    return run  # type: ignore[no-any-return]


async def refused(connect: Connect, **options: Any) -> int:
    with pytest.raises(trio_websocket.ConnectionRejected) as refusal:
        async with connect(**options):
            pass
    assert b"problem+json" in dict(refusal.value.headers or ()).get(b"content-type", b"")
    assert msgspec.json.decode(refusal.value.body or b"")["detail"]
    return refusal.value.status_code


async def test_an_unknown_token_is_refused_before_the_upgrade(connect: Connect) -> None:
    assert await refused(connect, token="tm_nobody-knows-this-one") == 401


async def test_another_sites_page_is_refused_before_the_upgrade(connect: Connect) -> None:
    assert await refused(connect, Origin="https://evil.example") == 403


async def test_another_subprotocol_is_refused_before_the_upgrade(connect: Connect) -> None:
    assert await refused(connect, subprotocol="taskman.v9") == 400


async def test_a_greeting_is_answered_with_a_welcome(connect: Connect, hello: Message) -> None:
    async with connect(hello) as worker:
        assert worker.connection.subprotocol == "taskman.v1"
        welcome = await worker.hear("welcome")
        assert (welcome["heartbeat_s"], welcome["lease_s"]) == (5, 20)
        assert (welcome["keep"], welcome["drop"]) == ([], [])


async def test_a_run_goes_its_whole_way(connect: Connect, hello: Message, target: Target) -> None:
    run_id = target.submit("echo hello", env={"A": "b"}, timeout="1m")
    async with connect(hello, {"m": "want", "n": 1}) as worker:
        run = await assigned(worker)
        assert run["run"] == run_id
        expected = {
            "type": "shell",
            "attempt": 1,
            "env": {"A": "b"},
            "secrets": {},
            "timeout": 60,
            "idle_timeout": None,
        }
        assert {name: run[name] for name in expected} == expected
        assert run["params"]["command"] == "echo hello"
        assert (run["grace"], run["fire_time"], run["task"]) == (10, None, None)
        chunks = [[1, 1_700_000_000_000, "out", b"hello\nwor"], [2, 1_700_000_000_100, "err", b"oops\n"]]
        await worker.say({"m": "log", **one(run), "chunks": chunks})
        assert (await worker.hear("logged"))["seq"] == 2
        await worker.say({"m": "done", **one(run), "outcome": "succeeded", "result": {"n": [1, None]}})
        assert (await worker.hear("recorded"))["state"] == "succeeded"
    found = target.run(run_id)
    assert (found["state"], found["result"], found["worker"]) == ("succeeded", {"n": [1, None]}, hello["id"])
    assert "hello" in target.log(run_id)


async def test_no_more_runs_come_than_are_wanted(connect: Connect, hello: Message, target: Target) -> None:
    runs = {target.submit() for _ in range(6)}
    async with connect(hello, {"m": "want", "n": 2}) as worker:
        taken: list[Message] = []
        while len(taken) < 2:
            taken += (await worker.hear("assign"))["runs"]
        await worker.say({"m": "beat", "held": [one(run) for run in taken], "load": 2})
        await worker.hear("beat")
        assert not any(message["m"] == "assign" for message in worker.heard)
        await worker.say({"m": "want", "n": 99})  # there are four slots
        while len(taken) < 4:
            taken += (await worker.hear("assign"))["runs"]
        await worker.say({"m": "beat", "held": [one(run) for run in taken], "load": 4})
        await worker.hear("beat")
        assert not any(message["m"] == "assign" for message in worker.heard)
    assert {run["run"] for run in taken} < runs


async def test_everything_may_be_sent_twice(connect: Connect, hello: Message, target: Target) -> None:
    run_id = target.submit()
    async with connect(hello, {"m": "want", "n": 1}) as worker:
        run = await assigned(worker)
        log = {"m": "log", **one(run), "chunks": [[1, 1, "out", b"once\n"]]}
        done = {"m": "done", **one(run), "outcome": "succeeded"}
        await worker.say(log, log, done, done)
        assert [(await worker.hear("logged"))["seq"] for _ in range(2)] == [1, 1]
        assert [(await worker.hear("recorded"))["state"] for _ in range(2)] == ["succeeded", "succeeded"]
    assert target.log(run_id) == "once\n"


async def test_lines_are_numbered_on_across_connections(connect: Connect, hello: Message, target: Target) -> None:
    run_id = target.submit()
    async with connect(hello, {"m": "want", "n": 1}) as worker:
        run = await assigned(worker)
        await worker.say({"m": "log", **one(run), "chunks": [[1, 1, "out", b"one\ntwo\n"]]})
        await worker.hear("logged")
    async with connect({**hello, "held": [one(run)]}) as worker:
        assert (await worker.hear("welcome"))["keep"] == [{**one(run), "seq": 1, "line": 3}]
        chunks = [[1, 1, "out", b"one\ntwo\n"], [2, 2, "out", b"three\n"]]
        await worker.say({"m": "log", **one(run), "chunks": chunks})
        assert (await worker.hear("logged"))["seq"] == 2
        await worker.say({"m": "done", **one(run), "outcome": "succeeded"})
        await worker.hear("recorded")
    with target.client() as client:
        lines = client.get(f"/runs/{run_id}/log", headers={"Accept": "application/x-ndjson"}).text.splitlines()
    assert [msgspec.json.decode(line)["line"] for line in lines] == [1, 2, 3]


async def test_a_failure_follows_the_runs_policy(connect: Connect, hello: Message, target: Target) -> None:
    policy = {"max_attempts": 3, "backoff": {"kind": "fixed", "base": 0}}
    run_id = target.submit(retry=policy)
    async with connect(hello, {"m": "want", "n": 1}) as worker:
        run = await assigned(worker)
        await worker.say({"m": "done", **one(run), "outcome": "failed", "reason": "error", "error": "no"})
        assert (await worker.hear("recorded"))["state"] == "scheduled"
        await worker.say({"m": "want", "n": 1})
        again = await assigned(worker)
        assert (again["run"], again["attempt"]) == (run_id, 2)
        await worker.say({"m": "done", **one(again), "outcome": "fatal", "error": "never"})
        assert (await worker.hear("recorded"))["state"] == "failed"


async def test_a_task_may_ask_when_to_be_tried_again(connect: Connect, hello: Message, target: Target) -> None:
    run_id = target.submit(retry={"max_attempts": 2, "backoff": {"kind": "fixed", "base": 0}})
    async with connect(hello, {"m": "want", "n": 1}) as worker:
        run = await assigned(worker)
        await worker.say({"m": "done", **one(run), "outcome": "failed", "reason": "error", "retry_after": 3600})
        await worker.hear("recorded")
    assert target.run(run_id)["state"] == "scheduled"


async def test_progress_is_shown_and_a_strangers_is_not(connect: Connect, hello: Message, target: Target) -> None:
    run_id = target.submit()
    async with connect(hello, {"m": "want", "n": 1}) as worker, connect({**hello, "id": hello["id"] + "-2"}) as other:
        run = await assigned(worker)
        await worker.say({"m": "progress", **one(run), "done": 3, "total": 4, "message": "nearly"})
        await worker.say({"m": "beat", "held": [one(run)], "load": 1})
        await worker.hear("beat")
        await other.say({"m": "progress", **one(run), "done": 4, "total": 4})
        assert (await other.hear("drop"))["run"] == run_id
        shown = target.run(run_id)["progress"]
        assert (shown["done"], shown["total"], shown["message"]) == (3, 4, "nearly")
        await worker.say({"m": "progress", **one(run), "done": -1})
        assert "progress" in (await worker.hear("error"))["detail"]


async def test_a_released_run_goes_to_somebody_else(connect: Connect, hello: Message, target: Target) -> None:
    run_id = target.submit()
    async with connect(hello, {"m": "want", "n": 1}) as worker:
        run = await assigned(worker)
        await worker.say({"m": "release", **one(run)})
        assert (await worker.hear("recorded"))["state"] == "queued"
        await worker.say({"m": "want", "n": 1})
        assert (await assigned(worker))["attempt"] == 2
    assert target.run(run_id)["attempts"][0]["state"] == "released"


async def test_a_cancel_is_pushed_and_obeyed(connect: Connect, hello: Message, target: Target) -> None:
    run_id = target.submit()
    async with connect(hello, {"m": "want", "n": 1}) as worker:
        run = await assigned(worker)
        assert await trio.to_thread.run_sync(target.post, f"/runs/{run_id}/cancel") == 202
        cancel = await worker.hear("cancel")
        assert (cancel["run"], cancel["attempt"], cancel["force"]) == (run_id, 1, False)
        await worker.say({"m": "done", **one(run), "outcome": "cancelled"})
        assert (await worker.hear("recorded"))["state"] == "cancelled"


async def test_a_drain_is_pushed_until_it_is_over(connect: Connect, hello: Message, target: Target) -> None:
    async with connect(hello, {"m": "want", "n": 4}) as worker:
        await worker.hear("welcome")
        await trio.to_thread.run_sync(target.post, f"/workers/{hello['id']}/drain")
        await worker.hear("drain")
        run_id = target.submit()
        await trio.to_thread.run_sync(target.post, f"/workers/{hello['id']}/resume")
        await worker.hear("resume")
        assert (await assigned(worker))["run"] == run_id


async def test_what_a_new_process_does_not_hold_is_lost_at_once(
    connect: Connect, hello: Message, target: Target
) -> None:
    run_id = target.submit()
    async with connect(hello, {"m": "want", "n": 1}) as worker:
        await assigned(worker)
    async with connect(hello) as worker:
        await worker.hear("welcome")
    assert target.run(run_id)["attempts"][0]["state"] == "lost"


async def test_what_never_reached_a_process_is_given_back(connect: Connect, hello: Message, target: Target) -> None:
    run_id = target.submit()
    async with connect({**hello, "boot": "x1"}, {"m": "want", "n": 1}) as worker:
        await assigned(worker)
    async with connect({**hello, "boot": "x1"}) as worker:
        await worker.hear("welcome")
    assert target.run(run_id)["attempts"][0]["state"] == "released"


async def test_a_newer_connection_replaces_the_older_one(connect: Connect, hello: Message) -> None:
    async with connect(hello) as older:
        await older.hear("welcome")
        async with connect(hello) as newer:
            await newer.hear("welcome")
            error = await older.hear("error")
            assert error["code"] == "replaced"
            assert await older.closed() == 1008
            await newer.say({"m": "beat", "held": [], "load": 0})
            await newer.hear("beat")


async def test_a_foreign_or_stale_attempt_changes_nothing(connect: Connect, hello: Message, target: Target) -> None:
    run_id = target.submit()
    other = {**hello, "id": hello["id"] + "-2"}
    async with connect(hello, {"m": "want", "n": 1}) as holder, connect(other) as stranger:
        run = await assigned(holder)
        await stranger.hear("welcome")
        for attempt in (1, 2):
            foreign = {"run": run_id, "attempt": attempt}
            await stranger.say({"m": "done", **foreign, "outcome": "succeeded", "result": "mine"})
            assert (await stranger.hear("recorded"))["state"] == "stale"
            await stranger.say({"m": "log", **foreign, "chunks": [[1, 1, "out", b"mine\n"]]})
            dropped = await stranger.hear("drop")
            assert (dropped["run"], dropped["attempt"]) == (run_id, attempt)
            await stranger.say({"m": "beat", "held": [foreign], "load": 1})
            assert (await stranger.hear("beat"))["drop"] == [foreign]
        await holder.say({"m": "done", **one(run), "outcome": "succeeded", "result": "holder's"})
        assert (await holder.hear("recorded"))["state"] == "succeeded"
    assert target.run(run_id)["result"] == "holder's"
    assert target.log(run_id) == ""


async def test_unknown_kinds_and_fields_are_ignored(connect: Connect, hello: Message) -> None:
    async with connect({**hello, "colour": "blue"}, {"m": "sing", "song": 1}) as worker:
        await worker.hear("welcome")
        await worker.say({"m": "beat", "held": [], "load": 0, "mood": "fine"})
        await worker.hear("beat")


MALFORMED: dict[str, Any] = {
    "not MessagePack": b"\xc1\xc1",
    "a map, not an array": msgspec.msgpack.encode({"m": "want", "n": 1}),
    "no kind": msgspec.msgpack.encode([{"n": 1}]),
    "a field of another type": msgspec.msgpack.encode([{"m": "want", "n": "many"}]),
    "a negative number": msgspec.msgpack.encode([{"m": "want", "n": -1}]),
    "a run id with a line in it": msgspec.msgpack.encode([{"m": "release", "run": "r0-1\nrun", "attempt": 1}]),
    "text": "hello",
    "deep nesting": b"\x91" * 100_000,
    "text that is no UTF-8": b"\x91\x81\xa1m\xa2\xff\xfe",
    "too many bytes": msgspec.msgpack.encode([{"m": "sing", "song": b"x" * 300_000}]),
    "a second greeting": msgspec.msgpack.encode([{"m": "hello", "id": "x", "slots": 1, "types": {}}]),
}


@pytest.mark.parametrize("what", MALFORMED)
async def test_a_malformed_frame_is_answered_with_an_error_and_a_close(
    connect: Connect, hello: Message, what: str
) -> None:
    async with connect(hello) as worker:
        await worker.hear("welcome")
        await worker.send_bytes(MALFORMED[what])
        error = await worker.hear("error")
        assert error["code"] == "malformed"
        assert len(error["detail"]) > 10
        assert await worker.closed() == 1002


async def test_a_result_that_is_no_json_is_refused(connect: Connect, hello: Message, target: Target) -> None:
    target.submit()
    async with connect(hello, {"m": "want", "n": 1}) as worker:
        run = await assigned(worker)
        await worker.say({"m": "done", **one(run), "outcome": "succeeded", "result": {"raw": b"\x00\xff"}})
        assert "result" in (await worker.hear("error"))["detail"]


async def test_a_frame_of_ten_megabytes_is_refused_while_it_comes_in(connect: Connect, hello: Message) -> None:
    async with connect(hello) as worker:
        await worker.hear("welcome")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send_until_closed, worker, b"\x91\xc6" + b"x" * 10_000_000)
            assert (await worker.hear("error"))["code"] == "malformed"
            nursery.cancel_scope.cancel()


async def _send_until_closed(worker: Conversation, data: bytes) -> None:
    try:
        await worker.send_bytes(data)
    except trio_websocket.ConnectionClosed:
        return


async def test_one_large_result_may_have_a_frame_of_its_own(connect: Connect, hello: Message, target: Target) -> None:
    runs = [target.submit() for _ in range(2)]
    async with connect(hello, {"m": "want", "n": 2}) as worker:
        taken: list[Message] = []
        while len(taken) < 2:
            taken += (await worker.hear("assign"))["runs"]
        for run, size in zip(taken, (900_000, 2_000_000), strict=True):
            await worker.say({"m": "done", **one(run), "outcome": "succeeded", "result": "x" * size})
        states = {(await worker.hear("recorded"))["state"] for _ in runs}
    assert states == {"succeeded", "failed"}
    assert "at most" in target.run(taken[1]["run"])["error"]


async def test_what_goes_first_must_be_a_greeting(connect: Connect) -> None:
    async with connect({"m": "want", "n": 1}) as worker:
        assert "hello" in (await worker.hear("error"))["detail"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("id", "no blanks"), ("slots", 0), ("types", ["shell"]), ("queues", ["a|b"]), ("labels", {"a": ""})],
)
async def test_a_greeting_that_makes_no_sense_is_refused(
    connect: Connect, hello: Message, field: str, value: object
) -> None:
    async with connect({**hello, field: value}) as worker:
        error = await worker.hear("error")
        assert (error["code"], field in error["detail"]) == ("malformed", True)


async def test_who_says_goodbye_is_forgotten(connect: Connect, hello: Message, target: Target) -> None:
    async with connect(hello) as worker:
        await worker.hear("welcome")
        await worker.say({"m": "bye"})
        assert await worker.closed() == 1000
    with target.client() as client:
        assert client.get(f"/workers/{hello['id']}").status_code == 404
