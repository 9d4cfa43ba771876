"""`taskman run`, `logs` and `runs wait|cancel`: what is asked for, what is followed, and how it ends."""

import json
import signal

import pytest

from taskman.client import Client
from taskman.errors import RequestRefused, ServerUnreachable

RUN, LOG = "GET /runs/r0-1", "GET /runs/r0-1/log"


@pytest.fixture
def accepting(server, replies):
    """A server that accepts every run; the run has succeeded by the time anybody looks."""
    queued = {**replies.run, "state": "queued"}
    server.on("POST /runs", replies.document(queued, 201))
    server.on("POST /tasks/nightly/runs", replies.document(queued, 201))
    server.on(RUN, replies.document(replies.run))
    server.on(LOG, replies.log())
    return server


# what is asked for


def test_command_after_the_dashes_is_sent_as_it_is(accepting, taskman):
    assert taskman("run", "-p", "cwd=/tmp", "--", "ls", "-la", "--help", "--", "x y").returncode == 0
    argv = ["ls", "-la", "--help", "--", "x y"]
    assert accepting.asked[0].body == {"type": "shell", "params": {"argv": argv, "cwd": "/tmp"}}


def test_parameters_are_json_or_text(accepting, taskman):
    values = ("n=1", "list=[1]", "text=a=b", "empty=", "not=NaN", "huge=1e999", 'quoted="1"')
    taskman("run", "-d", "nightly", *(part for value in values for part in ("-p", value)))
    params = {"n": 1, "list": [1], "text": "a=b", "empty": "", "not": "NaN", "huge": "1e999", "quoted": "1"}
    assert accepting.asked[0].body == {"params": params}


def test_parameters_of_a_file_yield_to_those_of_the_line(accepting, taskman):
    taskman("run", "-d", "-t", "http", "--params", "-", "-p", "a=2", stdin='{"a": 1, "b": 1}')
    assert accepting.asked[0].body == {"type": "http", "params": {"a": 2, "b": 1}}


def test_options_become_fields(accepting, taskman):
    given = (
        "--at",
        "2026-12-01 09:00",
        "--queue",
        "q",
        "--priority",
        "-1",
        "--timeout",
        "5m",
        "--idempotency-key",
        "k",
    )
    taskman("run", "-d", "nightly", *given)
    asked = accepting.asked[0]
    assert asked.body == {"at": "2026-12-01T09:00:00+01:00", "queue": "q", "priority": -1, "timeout": "5m"}
    assert asked.headers["Idempotency-Key"] == "k"
    taskman("run", "-d", "nightly", "--in", "10m")
    assert accepting.asked[-1].body == {"delay": "10m"}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "taskman run -- echo hello"),
        (["--"], "nothing follows --"),
        (["nightly", "--", "ls"], "name one thing to run"),
        (["ls", "-la"], "taskman run -- ls -la"),
        (["echo", "hi there"], "taskman run -- echo 'hi there'"),
        (["nightly", "-p", "who"], "-p takes key=value"),
        (["nightly", "--in", "1m", "--at", "2026-12-01"], "--in or --at"),
        (["nightly", "--at", "noon"], "'noon' is no time"),
        (["nightly", "--params", "-"], "standard input is not JSON: Expecting ',' delimiter at line 2, column 1"),
        (["nightly", "--params", "missing.json"], "missing.json cannot be read: No such file"),
    ],
)
def test_contradiction_is_a_usage_error_before_anything_is_asked(taskman, args, said):
    done = taskman("run", *args, stdin='{"a": 1\n"b"}')
    assert done.returncode == 2
    assert said in done.err


def test_text_that_is_not_unicode_is_refused(accepting, taskman):
    done = taskman("run", "--", "echo", b"\xff")
    assert done.returncode == 1
    assert "is not valid text" in done.err


def test_unknown_task_that_resembles_none_may_have_been_meant_as_a_command(server, taskman, replies):
    server.on("GET /tasks", replies.document({"items": [{"name": "nightly"}], "next_cursor": None}))
    done = taskman("run", "ls")
    assert done.returncode == 3
    assert "taskman run -- ls" in done.err


def test_detached_run_prints_its_id_alone(accepting, taskman):
    done = taskman("run", "--detach", "nightly")
    assert (done.returncode, done.out) == (0, "r0-1\n")
    assert "taskman logs -f r0-1" in done.err
    assert json.loads(taskman("run", "--detach", "--json", "nightly").out)["id"] == "r0-1"


# what is followed


def test_lines_go_to_the_stream_they_came_from(accepting, taskman, replies):
    lines = (1, 1, "out", "one"), (1, 2, "err", "two"), (1, 3, "sys", "three"), (1, 4, "out", "four…")
    accepting.on(LOG, replies.log(*lines), replies.log())
    done = taskman("run", "nightly")
    assert (done.returncode, done.out) == (0, "one\nfour")
    assert done.err == "two\nthree\nrun r0-1 succeeded after 1.2 s\n"


def test_broken_stream_is_resumed_without_loss_or_repeat(accepting, taskman, replies):
    accepting.on(
        LOG,
        replies.log((1, 1, "out", "1"), (1, 2, "out", "2"), then="break", cut=b'{"line": 3, "tex'),
        replies.problem(503, "store_unavailable", "Redis is away"),
        replies.log((1, 2, "out", "2"), (1, 3, "out", "3"), then="break"),
        replies.log((1, 4, "out", "4")),
        replies.log(),
    )
    assert taskman("run", "nightly").out == "1\n2\n3\n4\n"
    places = [(asked.query.get("attempt"), asked.query.get("after")) for asked in accepting.requests(LOG)]
    assert places == [(None, None), ("1", "2"), ("1", "2"), ("1", "3"), ("1", "4")]


def test_end_of_a_stream_is_not_believed_while_the_run_goes_on(accepting, taskman, replies):
    accepting.on(RUN, replies.document({**replies.run, "state": "running"}), replies.document(replies.run))
    accepting.on(LOG, replies.log((1, 1, "out", "1")), replies.log((1, 2, "out", "2")), replies.log((1, 3, "out", "3")))
    assert taskman("run", "nightly").out == "1\n2\n3\n"


def test_attempt_that_began_during_a_break_is_read_from_its_first_line(accepting, taskman, replies):
    accepting.on(RUN, replies.document({**replies.run, "attempt": 2}))
    accepting.on(
        LOG,
        replies.log((1, 1, "out", "1.1"), then="break"),
        replies.log((1, 2, "out", "1.2")),
        replies.log(),
        replies.log((2, 1, "out", "2.1")),
    )
    assert taskman("run", "nightly").out == "1.1\n1.2\n2.1\n"


def test_text_with_odd_line_separators_stays_a_line(accepting, taskman, replies):
    text = "a\u2028b\x85c\x0cd"
    accepting.on(LOG, replies.log((1, 1, "out", text)), replies.log())
    assert json.loads(taskman("logs", "-f", "--json", "r0-1").out)["text"] == text


def test_log_of_one_attempt_is_read_once(accepting, taskman, replies):
    accepting.on(LOG, replies.log((2, 1, "out", "hello")))
    assert taskman("runs", "logs", "--attempt", "2", "r0-1").out == "hello\n"
    assert [asked.query for asked in accepting.asked] == [{"attempt": "2"}]


def test_patience_ends(server, replies):
    server.on(LOG, replies.log((1, 1, "out", "1"), then="break"), replies.problem(503, "x", "Redis is away"))
    with Client(server.url, "tm_test", patience_s=0.2) as client:
        lines = client.logs("r0-1", follow=True)
        assert next(lines).text == "1"
        with pytest.raises(RequestRefused, match="away"):
            next(lines)


def test_server_that_never_answered_gets_no_patience():
    with Client("http://127.0.0.1:1", "tm_test") as client:
        with pytest.raises(ServerUnreachable):
            next(client.logs("r0-1", follow=True))
        with pytest.raises(ServerUnreachable):
            client.wait("r0-1")


# how it ends


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"state": "failed", "reason": "exit", "result": {"exit_code": 1}},
            "failed: exit code 1 (reason exit) after 1.2 s",
        ),
        ({"state": "failed", "reason": "error", "error": "boom\nmore", "result": None}, "failed: boom (reason error)"),
        ({"state": "cancelled", "reason": "requested", "started_at": None}, "cancelled (reason requested)\n"),
    ],
)
def test_unsuccessful_run_exits_with_six_and_says_why(accepting, taskman, replies, changes, said):
    accepting.on(RUN, replies.document({**replies.run, **changes}))
    done = taskman("run", "nightly")
    assert done.returncode == 6
    assert f"run r0-1 {said}" in done.err
    assert "taskman runs show r0-1" in done.err


def test_json_is_the_final_run(accepting, taskman, replies):
    done = taskman("run", "--json", "nightly")
    assert json.loads(done.out) == replies.run
    assert not accepting.requests(LOG)


def test_interrupt_leaves_the_run_and_tells_how_to_come_back(accepting, start, replies):
    accepting.on(LOG, replies.log((1, 1, "out", "begun"), then="silence"))
    process = start("run", "nightly")
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "taskman logs -f r0-1" in said
    assert "taskman runs cancel r0-1" in said
    assert "Traceback" not in said
    assert not accepting.requests("POST /runs/r0-1/cancel")


def test_wait_that_runs_out_exits_with_seven(accepting, taskman, replies):
    accepting.on(RUN, replies.document({**replies.run, "state": "running"}))
    done = taskman("runs", "wait", "r0-1", "--timeout", "0.2s")
    assert done.returncode == 7
    assert "still running after 0.2 s" in done.err
    assert taskman("runs", "wait", "r0-1", "--timeout", "soon").returncode == 2


def test_wait_rides_through_a_restart(accepting, taskman, replies):
    running = replies.document({**replies.run, "state": "running"})
    accepting.on(RUN, running, lambda handler: handler.send(502, "text/html"), replies.document(replies.run))
    assert taskman("runs", "wait", "r0-1").returncode == 0


def test_cancel_goes_on_after_a_run_that_cannot_be_cancelled(server, taskman, replies):
    server.on("POST /runs/r0-1/cancel", replies.problem(409, "conflict", "the run is final"))
    server.on("POST /runs/r0-2/cancel", replies.document(replies.run, 202))
    done = taskman("runs", "cancel", "--force", "r0-1", "r0-2", "r0-3")
    assert done.returncode == 5
    assert [asked.body for asked in server.asked] == [{"force": True}] * 3
    assert "run r0-2 is being cancelled" in done.err
    assert "there is no run 'r0-3'" in done.err
