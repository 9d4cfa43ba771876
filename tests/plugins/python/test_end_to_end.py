"""Python runs through a real server, as users start it: in a project's directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Server, eventually

TASKS = """
import subprocess, sys, time
from taskman import current, task

@task(timeout="20s", retry={"max_attempts": 2})
def greet(who, loudly=False):
    print("greeting", who)
    return f"hello {who}" + "!" * loudly

@task
async def greet_async(who):
    print("greeting", who)
    return f"hello {who}"

@task
def hangs():
    child = subprocess.Popen([sys.executable, "-c", "import os; os.setsid(); print('up', flush=True); input()"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    print("pids", child.pid, flush=True)
    time.sleep(60)

@task
def passes_on(who):
    return greet.submit(who).id

@task
async def blocks(who):
    return greet.submit(who).id

def plain():
    return "plain"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with a package of tasks."""
    package = tmp_path / "project" / "myapp"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "tasks.py").write_text(TASKS)
    return package.parent


@pytest.fixture
def start(make_server: Callable[..., Server], project: Path) -> Callable[..., Server]:
    def start(*options: str, **environment: str) -> Server:
        return make_server("data", *options, environment=environment, project=project)

    return start


def call(server: Server, name: str, *args: Any, **options: Any) -> dict[str, Any]:
    """The run of a function, when it is over."""
    with server.client() as client:
        body = {"type": "python", "params": {"callable": name, "args": list(args)}, **options}
        run = client.post("/runs", json=body)
        assert run.status_code == 201, run.text
        return client.get(f"/runs/{run.json()['id']}", params={"wait": 20}).json()


def text_of(server: Server, run_id: str) -> str:
    with server.client() as client:
        return client.get(f"/runs/{run_id}/log", headers={"Accept": "text/plain"}).text


@pytest.mark.parametrize("name", ["greet", "greet_async"])
def test_functions_of_the_working_directory_are_found(start: Callable[..., Server], name: str) -> None:
    server = start()
    run = call(server, f"myapp.tasks:{name}", "Ada")
    assert (run["state"], run["result"], run["error"]) == ("succeeded", "hello Ada", None)
    assert text_of(server, run["id"]) == "greeting Ada\n"


def test_the_command_line_runs_functions(start: Callable[..., Server]) -> None:
    done = start().command("run", "-t", "python", "-p", "callable=myapp.tasks:greet", "-p", 'args=["Ada"]')
    assert (done.returncode, done.stdout) == (0, "greeting Ada\n")


def test_params_that_make_no_sense_are_refused_by_field(start: Callable[..., Server]) -> None:
    with start().client() as client:
        body = {"type": "python", "params": {"callable": "no colon", "args": "x", "more": 1}}
        answer = client.post("/runs", json=body)
        assert answer.status_code == 422
        pointers = {fault["pointer"] for fault in answer.json()["errors"]}
        assert pointers == {"/params/callable", "/params/args", "/params/more"}


@pytest.mark.parametrize("how", ["flag", "variable", "file"])
def test_the_allow_list_can_be_given_in_any_way(start: Callable[..., Server], project: Path, how: str) -> None:
    if how == "file":
        (project / "taskman.toml").write_text('allow_callables = ["other:*", "myapp.tasks:*"]\n')
    options = ["--allow-callable", "other:*", "--allow-callable", "myapp.*:p*"] if how == "flag" else []
    variables = {"TASKMAN_ALLOW_CALLABLES": "myapp.tasks:plain"} if how == "variable" else {}
    run = call(start(*options, **variables), "myapp.tasks:plain")
    assert (run["result"], run["error"]) == ("plain", None)


def test_without_it_only_marked_functions_run(start: Callable[..., Server]) -> None:
    run = call(start(), "myapp.tasks:plain")
    assert (run["state"], run["reason"]) == ("failed", "rejected")
    assert "--allow-callable 'myapp.tasks:plain'" in run["error"]


def test_a_pattern_without_a_function_is_a_clear_error(server: Server) -> None:
    done = server.command("up", "--allow-callable", "myapp")
    assert done.returncode == 1
    assert "'myapp' does not read module:function" in done.stderr


def test_a_killed_server_takes_functions_and_their_processes_with_it(start: Callable[..., Server]) -> None:
    server = start()
    with server.client() as client:
        body = {"type": "python", "params": {"callable": "myapp.tasks:hangs"}}
        run_id = client.post("/runs", json=body).json()["id"]
    line = eventually(lambda: text_of(server, run_id))
    below = [int(line.split()[1]), *children_of(server)]
    assert len(below) >= 2
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGKILL)
    server.reap()
    eventually(lambda: not any(is_alive(pid) for pid in below), "processes outlive their worker")


def test_a_server_stops_in_time_while_a_function_hangs(start: Callable[..., Server]) -> None:
    server = start(TASKMAN_DRAIN_TIMEOUT="0")
    call(server, "myapp.tasks:greet", "Ada")
    with server.client() as client:
        body = {"type": "python", "params": {"callable": "myapp.tasks:hangs"}}
        run_id = client.post("/runs", json=body).json()["id"]
    eventually(lambda: text_of(server, run_id))
    children = children_of(server)
    assert server.stop() == 0
    assert not any(is_alive(pid) for pid in children)


def test_submit_asks_for_a_run_with_the_options_of_the_function(start: Callable[..., Server], project: Path) -> None:
    server = start()
    code = "from myapp.tasks import greet; run = greet.submit('Ada', loudly=True); print(run.id)"
    environment = {**server.environment, "TASKMAN_SERVER": server.url, "TASKMAN_TOKEN": server.token}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=environment, capture_output=True, text=True, check=True
    )
    with server.client() as client:
        run = client.get(f"/runs/{done.stdout.strip()}", params={"wait": 20}).json()
    assert (run["result"], run["max_attempts"]) == ("hello Ada!", 2)


def test_a_function_can_submit_another(start: Callable[..., Server], project: Path) -> None:
    server = start()
    token_file = server.directory / "cli-token"
    (project / "taskman.toml").write_text(f'server = "{server.url}"\ntoken_file = "{token_file}"\n')
    first = call(server, "myapp.tasks:passes_on", "Ada")
    assert first["error"] is None
    with server.client() as client:
        second = client.get(f"/runs/{first['result']}", params={"wait": 20}).json()
    assert second["result"] == "hello Ada"


def test_submit_in_an_async_function_is_refused_as_it_would_block_the_worker(start: Callable[..., Server]) -> None:
    run = call(start(), "myapp.tasks:blocks", "Ada")
    assert "RuntimeError: submit() would hold up the whole worker: call it in a thread" in run["error"]


def children_of(server: Server) -> list[int]:
    """The processes of the server that call functions."""
    return [pid for pid in server.tree() if "taskman_python/child.py" in command_of(pid)]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
