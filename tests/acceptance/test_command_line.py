"""The command line on a real server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from harness import Server, eventually

LOOP = "for i in 1 2 3; do echo line $i; sleep 0.4; done"


def test_a_command_prints_its_lines_as_they_come_and_exits_0(server: Server) -> None:
    command = [sys.executable, "-P", "-m", "taskman", "run", "--", "sh", "-c", LOOP]
    arrived = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=server.environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            arrived.append((time.monotonic(), line))
    assert [line for _, line in arrived] == [b"line 1\n", b"line 2\n", b"line 3\n"]
    assert arrived[2][0] - arrived[0][0] > 0.4
    assert process.returncode == 0


def test_a_failing_command_exits_6_and_says_why(server: Server) -> None:
    ended = server.command("run", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (ended.returncode, ended.stdout) == (6, "out\n")
    assert "err\n" in ended.stderr
    assert "exit code 3" in ended.stderr
    assert server.command("run", "--", "false").returncode == 6
    missing = server.command("run", "--", "no-such-program")
    assert missing.returncode == 6
    assert "cannot start 'no-such-program'" in missing.stderr


def test_a_detached_run_is_shown_followed_and_cancelled(server: Server) -> None:
    run_id = server.command("run", "--detach", "--", "sh", "-c", "echo begun; sleep 1000").stdout.strip()
    eventually(lambda: "begun" in server.command("runs", "logs", run_id).stdout)
    shown = json.loads(server.command("runs", "show", run_id, "--json").stdout)
    assert (shown["state"], shown["trigger"]) == ("running", "cli")
    follower = subprocess.Popen(
        [sys.executable, "-P", "-m", "taskman", "logs", "-f", run_id],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=server.environment,
    )
    assert server.command("runs", "cancel", run_id).returncode == 0
    out, _ = follower.communicate(timeout=20)
    assert out == "begun\n"
    assert server.command("runs", "cancel", run_id).returncode == 5
    listed = json.loads(server.command("runs", "list", "--state", "cancelled", "--json").stdout)
    assert [item["id"] for item in listed["items"]] == [run_id]


def test_an_interrupted_wait_leaves_the_run_alone(server: Server) -> None:
    command = [sys.executable, "-P", "-m", "taskman", "run", "--", "sh", "-c", "echo begun; sleep 2; echo done"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=server.environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    run_id = next(word for word in err.split() if word.startswith("r0-"))
    assert server.command("runs", "wait", run_id).returncode == 0
    assert server.command("logs", run_id).stdout == "begun\ndone\n"


def test_a_followed_log_survives_a_restart_of_the_server(server: Server, tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = f"seq 1 200; while [ ! -e {go} ]; do sleep 0.1; done; seq 201 400"
    port = server.url.rpartition(":")[2]
    server.stop()
    server._options = ("--port", port)
    server.environment["TASKMAN_DRAIN_TIMEOUT"] = "0"
    server.start()
    run_id = server.command("run", "--detach", "--", "sh", "-c", script).stdout.strip()
    collected: list[str] = []
    command = [sys.executable, "-P", "-m", "taskman", "logs", "-f", run_id, "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=server.environment
    ) as follower:
        assert follower.stdout is not None
        reader = threading.Thread(target=lambda: collected.extend(follower.stdout or ()))
        reader.start()
        eventually(lambda: len(collected) >= 200)
        server.stop()
        go.touch()
        server.start()
        reader.join(30)
    lines = [(line["attempt"], line["line"]) for line in map(json.loads, collected)]
    assert lines[:200] == [(1, number) for number in range(1, 201)]
    assert len(set(lines)) == len(lines), "a line came twice"
    assert lines[-400:] == [(2, number) for number in range(1, 401)], "the attempt after the restart is whole"


def test_tasks_are_created_listed_run_and_deleted(server: Server, tmp_path: Path) -> None:
    definition = tmp_path / "hello.json"
    body = {
        "name": "hello",
        "type": "shell",
        "params": {"argv": ["echo", "hello"]},
        "schedules": [{"cron": "0 4 * * *"}],
    }
    definition.write_text(json.dumps(body))
    assert server.command("tasks", "create", "-f", str(definition)).returncode == 0
    assert server.command("tasks", "create", "-f", str(definition)).returncode == 5
    assert "0 4 * * *" in server.command("tasks", "list").stdout
    assert json.loads(server.command("tasks", "show", "hello", "--json").stdout)["revision"] == 1
    assert server.command("run", "hello", "-p", 'argv=["echo","changed"]').stdout == "changed\n"
    typo = server.command("run", "helo")
    assert typo.returncode == 3
    assert "hello" in typo.stderr
    bad = {**body, "schedules": [{"cron": "61 4 * * *"}], "prams": {}}
    refused = server.command("tasks", "create", "-f", "-", input=json.dumps(bad))
    assert refused.returncode == 1
    assert "/schedules/0/cron" in refused.stderr
    assert "did you mean 'params'" in refused.stderr
    assert server.command("tasks", "delete", "hello").returncode == 0
    assert server.command("tasks", "show", "hello").returncode == 3


@pytest.mark.parametrize("arguments", [("runs", "list"), ("run", "--", "true"), ("tasks", "list")])
def test_a_wrong_token_is_refused_with_exit_code_4(server: Server, arguments: tuple[str, ...]) -> None:
    server.environment["TASKMAN_TOKEN"] = "tm_wrong"
    refused = server.command(*arguments)
    assert refused.returncode == 4
    assert "TASKMAN_TOKEN" in refused.stderr
    assert "Traceback" not in refused.stderr
