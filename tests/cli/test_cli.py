"""What every command has in common: errors and exit codes, help, tables, JSON, settings."""

import json
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import click
import pytest

from taskman.cli import COMMANDS, cli

HEAVY = ("httpx2", "pydantic", "trio", "quart", "redis", "hypercorn", "asyncio", "taskman.server", "taskman.client")


def every_command(command=cli, path=()):
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from every_command(command.get_command(context, name), (*path, name))


def in_terminal(start, *args, **variables):
    """What a command prints where somebody looks."""
    ours, its = pty.openpty()
    process = start(*args, streams=its, **variables)
    os.close(its)
    printed = b""
    try:
        while data := os.read(ours, 65536):
            printed += data
    except OSError:  # how Linux tells that the other side is closed
        pass
    os.close(ours)
    process.communicate(timeout=20)
    return printed.decode()


# help


@pytest.mark.parametrize(("path", "command"), [*every_command()])
def test_help_says_a_sentence_and_names_an_example(path, command):
    with click.Context(command, info_name=" ".join(["taskman", *path])) as context:
        text = command.get_help(context)
    sentence = command.help.partition("\n")[0]
    assert sentence.endswith(".")
    assert "Examples:" in text
    assert "taskman" in text.partition("Examples:")[2]


def test_overview_repeats_the_first_sentence_of_each_command():
    for name, (_, sentence) in COMMANDS.items():
        assert cli.get_command(click.Context(cli), name).help.partition("\n")[0] == sentence


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["up", "--help"], ["config", "list"]])
def test_what_needs_no_server_imports_nothing_heavy(args, environment, tmp_path):
    program = (
        "import sys; from taskman.cli import cli\n"
        f"try: cli.main({args!r})\n"
        f"except SystemExit: print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_version(taskman):
    assert taskman("--version").out.startswith("taskman 0.")


# usage errors


def test_unknown_command_names_the_nearest_and_the_line_to_type(taskman):
    done = taskman("runs", "lits", "--state", "failed")
    assert done.returncode == 2
    assert "did you mean 'list'?" in done.err
    assert "taskman runs list --state failed" in done.err


def test_unknown_option_is_a_usage_error(taskman):
    done = taskman("runs", "list", "--jsn")
    assert done.returncode == 2
    assert "--json" in done.err


def test_noun_alone_shows_its_help_on_stderr(taskman):
    done = taskman("runs")
    assert (done.returncode, done.out) == (2, "")
    assert "cancel" in done.err


# no server, no token


@pytest.mark.parametrize("token", ["tm_test", None])
def test_no_server_is_said_with_its_address_and_the_remedy(taskman, token):
    done = taskman("runs", "list", TASKMAN_TOKEN=token)
    assert done.returncode == 8
    assert "http://127.0.0.1:1" in done.err
    assert "taskman up" in done.err


def test_no_token_is_said_with_the_remedy(server, taskman, replies):
    server.on("GET /health", replies.document({"status": "ok"}))
    done = taskman("runs", "list", TASKMAN_TOKEN=None)
    assert done.returncode == 1
    assert "TASKMAN_TOKEN" in done.err


def test_local_server_is_found_with_its_token_by_the_files_it_writes(server, taskman, replies, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/server.url").write_text(server.url + "\n")
    (tmp_path / "data/cli-token").write_text("tm_local\n")
    server.on("GET /tasks", replies.document({"items": [], "next_cursor": None}))
    assert taskman("tasks", "list", TASKMAN_SERVER=None, TASKMAN_TOKEN=None).returncode == 0
    assert server.asked[-1].headers["Authorization"] == "Bearer tm_local"
    assert server.asked[-1].headers["User-Agent"].startswith("taskman-cli/")


def test_token_of_this_machine_goes_to_its_own_server_only(server, taskman, replies, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/server.url").write_text("http://127.0.0.1:1\n")
    (tmp_path / "data/cli-token").write_text("tm_local\n")
    server.on("GET /health", lambda handler: handler.send(404, "text/plain"))
    for stranger in (server.url, server.url.replace("127.0.0.1", "localhost")):
        done = taskman("tasks", "list", TASKMAN_SERVER=stranger, TASKMAN_TOKEN=None)
        assert done.returncode == 1
        server.on("GET /health", replies.document({"status": "ok"}))
        done = taskman("tasks", "list", TASKMAN_SERVER=stranger, TASKMAN_TOKEN=None)
        assert "no token" in done.err
    assert not [asked for asked in server.asked if "Authorization" in asked.headers]
    (tmp_path / "data/server.url").write_text(server.url + "\n")
    server.on("GET /tasks", replies.document({"items": [], "next_cursor": None}))
    assert taskman("tasks", "list", TASKMAN_SERVER=server.url + "/", TASKMAN_TOKEN=None).returncode == 0


def test_scope_that_is_missing_is_named_with_how_to_get_it(server, taskman, replies):
    detail = "this needs the scope 'run': token 'ci' has 'read'"
    server.on("POST /runs", replies.problem(403, "forbidden", detail, scope="run"))
    done = taskman("run", "--", "true")
    assert done.returncode == 4
    assert detail in done.err
    assert "taskman tokens create --scope run" in done.err


def test_token_is_the_only_output_and_its_scope_is_checked_before_anything_is_asked(server, taskman, replies):
    made = {"id": "3f9a", "name": "ci", "scope": "run", "expires_at": None, "token": "tm_secret"}
    server.on("POST /tokens", replies.document(made, 201))
    done = taskman("tokens", "create", "--scope", "run", "--name", "ci", "--expires", "30d")
    assert done.out == "tm_secret\n"
    assert "taskman tokens revoke 3f9a" in done.err
    assert "tm_secret" not in done.err
    assert server.asked[-1].body == {"scope": "run", "name": "ci", "expires": 30 * 86400.0}
    for wrong in (["--scope", "root"], [], ["--scope", "run", "--expires", "soon"]):
        assert taskman("tokens", "create", *wrong).returncode == 2
    assert len(server.asked) == 1


def test_tokens_are_listed_and_revoked(server, taskman, replies):
    token = {"id": "3f9a", "name": "ci", "scope": "run", "by": "token:local", "created_at": "2026-01-02T03:04:05Z"}
    page = {"items": [{**token, "last_used_at": None, "expires_at": None}], "next_cursor": None}
    server.on("GET /tokens", replies.document(page))
    server.on("DELETE /tokens/3f9a", lambda handler: handler.send(204, "text/plain"))
    listed = taskman("tokens", "list").out.splitlines()
    assert listed[0].split() == ["ID", "NAME", "SCOPE", "CREATED", "BY", "LAST", "USED", "EXPIRES"]
    assert listed[1].split()[:3] == ["3f9a", "ci", "run"]
    assert json.loads(taskman("tokens", "list", "--json").out)["items"] == page["items"]
    assert taskman("tokens", "revoke", "3f9a").returncode == 0
    unknown = taskman("tokens", "revoke", "nope")
    assert unknown.returncode == 3
    assert "taskman tokens list" in unknown.err


@pytest.mark.parametrize("url", ["localhost:8080", "http://", "ftp://host", "http://user:pw@host", "http://host:x"])
def test_address_that_is_none_is_refused(taskman, url):
    done = taskman("runs", "list", TASKMAN_SERVER=url)
    assert done.returncode == 1
    assert "http://HOST:PORT" in done.err


def test_proxy_of_the_environment_is_not_used_for_loopback(server, taskman, replies):
    server.on("GET /tasks", replies.document({"items": [], "next_cursor": None}))
    assert taskman("tasks", "list", HTTP_PROXY="http://127.0.0.1:1", ALL_PROXY="http://127.0.0.1:1").returncode == 0


def test_token_does_not_follow_a_redirect(server, taskman):
    server.on("GET /tasks", lambda handler: handler.send(302, "text/html", Location=f"{server.url}/elsewhere"))
    done = taskman("tasks", "list")
    assert done.returncode == 1
    assert "TASKMAN_SERVER" in done.err
    assert [asked.path for asked in server.asked] == ["/api/v1/tasks"]


# what the server refuses


@pytest.mark.parametrize(
    ("status", "code"), [(401, 4), (403, 4), (404, 3), (409, 5), (412, 5), (422, 1), (500, 1), (503, 1)]
)
def test_refusal_becomes_an_exit_code(server, taskman, replies, status, code):
    server.on("GET /tasks", replies.problem(status, "some_code", "this is the reason"))
    done = taskman("tasks", "list")
    assert done.returncode == code
    assert done.err.startswith("taskman: this is the reason\n")
    assert ("TASKMAN_TOKEN" in done.err) == (status in (401, 403))


def test_every_fault_has_a_line(server, taskman, replies):
    faults = [{"pointer": "/schedules/0/cron", "detail": "has six fields"}, {"pointer": "/name", "detail": "is taken"}]
    server.on("POST /tasks", replies.problem(422, "invalid_input", "the task is not right", faults))
    done = taskman("tasks", "create", "-f", "-", stdin="{}")
    assert done.returncode == 1
    assert done.err.splitlines() == [
        "taskman: this is not right:",
        "  /schedules/0/cron: has six fields",
        "  /name: is taken",
    ]


def test_failure_of_the_server_names_the_request(server, taskman, replies):
    server.on("GET /tasks", replies.problem(500, "internal", "something went wrong", request_id="q7"))
    assert "(request q7 in the server's log)" in taskman("tasks", "list").err


def test_another_program_at_the_address_is_recognised(server, taskman):
    server.on("GET /tasks", lambda handler: handler.send(404, "text/html", b"<h1>nginx</h1>"))
    done = taskman("tasks", "list")
    assert done.returncode == 1
    assert "set TASKMAN_SERVER to a Taskman server" in done.err


def test_gateway_without_a_server_behind_it_is_an_unreachable_server(server, taskman):
    server.on("GET /tasks", lambda handler: handler.send(502, "text/html", b"<h1>nginx</h1>"))
    assert taskman("tasks", "list").returncode == 8


def test_runs_are_deleted_each_and_the_first_failure_is_the_exit_code(server, taskman, replies):
    server.on("DELETE /runs/r0-1", lambda handler: handler.send(204, "text/plain"))
    server.on("DELETE /runs/r0-2", replies.problem(409, "conflict", "run r0-2 is running: cancel it first"))
    done = taskman("runs", "delete", "r0-2", "r0-3", "r0-1")
    assert done.returncode == 5
    assert done.out == ""
    assert "run r0-2 is running: cancel it first" in done.err
    assert "there is no run 'r0-3'" in done.err
    assert "run r0-1 is deleted" in done.err
    assert taskman("runs", "delete", "r0-1").returncode == 0
    assert taskman("runs", "delete").returncode == 2


# what is printed


def test_json_is_one_document_of_all_pages(server, taskman, replies):
    pages = {"items": [replies.run] * 2, "next_cursor": "c1"}, {"items": [replies.run], "next_cursor": None}
    server.on("GET /runs", *map(replies.document, pages))
    assert json.loads(taskman("runs", "list", "--json", "--state", "failed").out) == {"items": [replies.run] * 3}
    assert [asked.query.get("cursor") for asked in server.asked] == [None, "c1"]
    assert {asked.query["state"] for asked in server.asked} == {"failed"}


def test_list_goes_on_over_empty_pages_and_asks_for_what_was_typed(server, taskman, replies):
    empty = {"items": [], "next_cursor": "c1"}
    server.on("GET /runs", *map(replies.document, (empty, {"items": [replies.run], "next_cursor": None})))
    options = ["--worker", "w1", "--search", "disk full", "--until", "2026-01-02T03:04:05+00:00", "--since", "2h"]
    before = datetime.now(UTC) - timedelta(hours=2)
    assert json.loads(taskman("runs", "list", "--json", *options).out) == {"items": [replies.run]}
    for asked in server.requests("GET /runs"):
        query = {name: asked.query[name] for name in ("worker", "q", "until")}
        assert query == {"worker": "w1", "q": "disk full", "until": "2026-01-02T03:04:05+00:00"}
        assert timedelta() <= datetime.fromisoformat(asked.query["since"]) - before < timedelta(minutes=1)
    refused = taskman("runs", "list", "--since", "yesterday")
    assert refused.returncode == 2
    assert "'yesterday' is no time" in refused.err


def test_jsonl_stops_at_the_limit(server, taskman, replies):
    server.on("GET /runs", replies.document({"items": [replies.run] * 2, "next_cursor": "more"}))
    lines = taskman("runs", "list", "--jsonl", "--limit", "3").out.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["r0-1"] * 3


def test_table_in_a_pipe_is_plain_and_whole(server, taskman, replies):
    long = {**replies.run, "task": "a" * 150}
    server.on("GET /runs", replies.document({"items": [long], "next_cursor": None}))
    head, row = taskman("runs", "list").out.splitlines()
    assert head.split() == ["ID", "TASK", "STATE", "REASON", "CREATED", "TOOK", "WORKER"]
    assert row.split()[:3] == ["r0-1", "a" * 150, "succeeded"]
    assert "1.2 s" in row
    assert "\x1b" not in row


def test_table_in_a_terminal_fits_and_keeps_the_id(server, start, replies):
    run = {**replies.run, "id": "r0-" + "7" * 23, "task": "ü漢\x1b" * 30, "state": "failed"}
    server.on("GET /runs", replies.document({"items": [run], "next_cursor": None}))
    plain = in_terminal(start, "runs", "list", COLUMNS="80", TERM="xterm", NO_COLOR="1")
    assert run["id"] in plain
    assert "…" in plain
    assert all(len(line) <= 80 for line in plain.splitlines())
    assert "\x1b" not in plain
    assert "\x1b[31mfailed" in in_terminal(start, "runs", "list", COLUMNS="80", TERM="xterm")


def test_reader_that_goes_away_ends_it_quietly(server, start, replies):
    server.on("GET /runs", replies.document({"items": [replies.run] * 1000, "next_cursor": "more"}))
    with start("runs", "list", "--limit", "9000", "--jsonl") as process:
        assert json.loads(process.stdout.readline())
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_showing_a_run_tells_its_reason_in_words(server, taskman, replies):
    attempt = {
        "number": 1,
        "worker": "w1",
        "state": "failed",
        "reason": "exit",
        "started_at": None,
        "finished_at": None,
    }
    run = {**replies.run, "state": "failed", "reason": "exit", "attempts": [attempt]}
    server.on("GET /runs/r0-1", replies.document(run))
    done = taskman("runs", "show", "r0-1")
    assert "exit: The process ended with a code" in done.out
    assert "ATTEMPT" in done.out
    assert "taskman logs r0-1" in done.err


# tasks


def test_unknown_task_names_the_nearest_and_the_line_to_type(server, taskman, replies):
    server.on("GET /tasks", replies.document({"items": [{"name": "nightly"}], "next_cursor": None}))
    done = taskman("tasks", "show", "nigthly", "--json")
    assert done.returncode == 3
    assert "there is no task 'nigthly'; did you mean 'nightly'?" in done.err
    assert "\n  taskman tasks show nightly --json\n" in done.err


def test_known_task_that_is_refused_is_not_suggested_again(server, taskman, replies):
    server.on("GET /tasks", replies.document({"items": [{"name": "nightly"}], "next_cursor": None}))
    done = taskman("run", "nightly")
    assert done.returncode == 3
    assert done.err.startswith("taskman: there is nothing here")


def test_task_is_created_from_toml(server, taskman, replies, tmp_path):
    server.on("POST /tasks", replies.document({"name": "nightly"}, 201))
    text = 'name = "nightly"\n[[schedules]]\nat = 2026-12-01T09:00:00\n[params]\nargv = ["date"]\n'
    (tmp_path / "nightly.toml").write_text(text)
    done = taskman("tasks", "create", "-f", "nightly.toml")
    assert (done.returncode, done.out) == (0, "")
    assert "taskman run nightly" in done.err
    assert server.asked[-1].body == {
        "name": "nightly",
        "schedules": [{"at": "2026-12-01T09:00:00+01:00"}],
        "params": {"argv": ["date"]},
    }


def test_tasks_are_listed_with_their_schedules(server, taskman, replies):
    schedules = [{"cron": "30 2 * * *", "timezone": "Europe/Berlin"}, {"every": 600.0}]
    task = {"name": "nightly", "type": "shell", "schedules": schedules, "enabled": False}
    server.on("GET /tasks", replies.document({"items": [task], "next_cursor": None}))
    assert "30 2 * * * Europe/Berlin, every 10 min  no" in taskman("tasks", "list").out


def test_task_is_deleted_and_its_name_is_escaped(server, taskman):
    server.on("DELETE /tasks/a%2Fb", lambda handler: handler.send(204, "text/plain"))
    assert taskman("tasks", "delete", "a/b").returncode == 0
    assert taskman("tasks", "delete", "..").returncode == 3


# settings


def test_settings_are_listed_with_their_origin_and_without_secrets(taskman):
    secrets = {
        "TASKMAN_ADMIN_TOKEN": "tm_hidden",
        "TASKMAN_REDIS_URL": "redis://me:hid/den@host:6379/0?password=hidden",
    }
    done = taskman("config", "list", "--json", **secrets)
    settings = {item["name"]: item for item in json.loads(done.out)["items"]}
    assert settings["redis_url"]["value"] == "redis://me:********@host:6379/0?password=********"
    assert settings["redis_url"]["origin"] == "environment"
    assert settings["bind"] | {"help": ""} == {
        "name": "bind",
        "value": "127.0.0.1:8080",
        "origin": "default",
        "variable": "TASKMAN_BIND",
        "help": "",
    }
    for output in (done.out, taskman("config", "list", **secrets).out):
        assert "hidden" not in output
        assert "hid/den" not in output
        assert "tm_test" not in output


def test_path_of_the_settings_file_is_the_only_output(taskman, tmp_path):
    assert taskman("config", "path").out == f"{tmp_path}/.config/taskman/config.toml\n"


def test_port_and_bind_exclude_each_other(taskman):
    assert taskman("up", "--port", "9000", "--bind", "127.0.0.1:9001").returncode == 2
