"""The example: what `taskman plugins new` makes, installed by pip into a server that then has all of it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from harness import Server, eventually
from planting import HEAD, pip_install_example, plant

from taskman.errors import Conflict, InvalidInput
from taskman.scaffold import make_plugin

EXAMPLE = Path(__file__).parent.parent.parent / "plugins" / "example-taskman-hello"


def content(directory: Path) -> dict[str, str]:
    """Every file below, without what tests and builds leave."""
    files = (path for path in directory.rglob("*") if path.is_file())
    named = {str(path.relative_to(directory)): path for path in files}
    return {name: path.read_text() for name, path in named.items() if "cache" not in name and "egg-info" not in name}


def test_the_example_uses_only_what_a_stranger_can() -> None:
    names = {
        name for text in content(EXAMPLE).values() for name in re.findall(r"(?:from|import) (taskman[.\w]*)", text)
    }
    assert names == {"taskman", "taskman.testing", "taskman_hello"}


def test_the_example_is_what_the_command_makes(tmp_path: Path) -> None:
    assert content(make_plugin("hello", tmp_path)) == content(EXAMPLE)


@pytest.mark.parametrize("name", ["disk-usage", "x", "taskman-probe2"])
def test_what_is_made_passes_its_own_tests_at_once(name: str, tmp_path: Path) -> None:
    made = make_plugin(name, tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    ended = subprocess.run(command, cwd=made, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stdout
    assert "9 passed" in ended.stdout


@pytest.mark.parametrize("name", ["", "Hello", "a b", "9lives", "-x", "x--y", "../x", "x" * 41, "über"])
def test_a_name_that_cannot_be_one_is_refused_and_nothing_made(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be the name of a plugin"):
        make_plugin(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "taskman-hello").symlink_to("nowhere")
    with pytest.raises(Conflict, match="exists already"):
        make_plugin("hello", tmp_path)
    with pytest.raises(Conflict, match="the task type 'shell' is installed already"):
        make_plugin("shell", tmp_path)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, installed by pip into a directory of its own, without a network."""
    return pip_install_example(tmp_path_factory.mktemp("example"))


@pytest.fixture
def server(make_server: Callable[..., Server], installed: Path) -> Server:
    return make_server(environment={"PYTHONPATH": str(installed)})


@pytest.fixture
def api(server: Server) -> Iterator[httpx2.Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def browser(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=30, trust_env=False, follow_redirects=True) as client:
        client.get(server.link)
        yield client


def run(api: httpx2.Client, **params: Any) -> dict[str, Any]:
    reply = api.post("/runs", json={"type": "hello", "params": params})
    assert reply.status_code == 201, reply.text
    ended: dict[str, Any] = api.get(f"/runs/{reply.json()['id']}", params={"wait": "20"}).json()
    return ended


def test_after_pip_install_the_type_is_everywhere(api: httpx2.Client, browser: httpx2.Client, server: Server) -> None:
    types = {one["name"]: one for one in api.get("/task-types").json()["items"]}
    assert set(types["hello"]) == {"name", "version", "description", "schema", "workers"}
    assert types["hello"]["schema"]["properties"]["times"]["maximum"] == 1000
    (worker,) = eventually(lambda: {t["name"]: t for t in api.get("/task-types").json()["items"]}["hello"]["workers"])
    assert worker["version"] == "1.0"
    (plugin,) = (one for one in api.get("/plugins").json()["items"] if one["name"] == "hello")
    assert plugin == {
        "name": "hello",
        "distribution": "taskman-hello",
        "version": "1.0",
        "task_types": ["hello"],
        "error": None,
    }
    form = browser.get("/runs/new?type=hello").text
    assert 'name="params.who"' in form
    assert '<option value="fr">fr</option>' in form
    assert "taskman-hello 1.0" in browser.get("/plugins").text


def test_a_run_of_it_succeeds_with_its_log_progress_and_result(api: httpx2.Client) -> None:
    ended = run(api, who="Ada", times=3, pause=0, command=["echo", "done"])
    assert (ended["state"], ended["result"]) == ("succeeded", {"greeted": ["Ada"], "times": 3})
    assert {name: ended["progress"][name] for name in ("done", "total", "message")} == {
        "done": 3,
        "total": 3,
        "message": "greetings",
    }
    assert ended["progress"]["at"]
    text = api.get(f"/runs/{ended['id']}/log", headers={"Accept": "text/plain"}).text
    assert text == "Hello, Ada!\n" * 3 + "done\n"


def test_params_that_the_model_refuses_are_named(api: httpx2.Client) -> None:
    reply = api.post("/runs", json={"type": "hello", "params": {"times": 0, "who": "", "nobody": 1}})
    assert {fault["pointer"] for fault in reply.json()["errors"]} == {"/params/times", "/params/who", "/params/nobody"}


def test_the_page_of_a_plugin_is_in_the_navigation_and_behind_the_sign_in(
    browser: httpx2.Client, server: Server
) -> None:
    overview = browser.get("/")
    assert '<a href="/hello">' in overview.text
    page = browser.get("/hello")
    assert page.status_code == 200
    assert "<dd>Bonjour</dd>" in page.text
    assert '<a href="/hello" aria-current="page">' in page.text
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    stranger = httpx2.get(f"{server.url}/hello", trust_env=False)
    assert (stranger.status_code, stranger.headers["Location"]) == (303, "/login?next=/hello")
    assert "script-src 'self'" in stranger.headers["Content-Security-Policy"]


def test_the_notifier_hears_of_a_run_that_failed(api: httpx2.Client, server: Server) -> None:
    ended = run(api, times=1, pause=0, command=["false"])
    assert (ended["state"], ended["reason"]) == ("failed", "exit")
    eventually(lambda: f"run {ended['id']} failed: false ended with 1" in server.errors())


def test_the_command_line_shows_it_without_a_server(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed), "TASKMAN_SERVER": "http://127.0.0.1:9"}
    command = [sys.executable, "-P", "-m", "taskman", "plugins", "list"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "hello   hello       taskman-hello 1.0" in ended.stdout


def test_progress_is_told_to_the_command_line(api: httpx2.Client, server: Server) -> None:
    reply = api.post("/runs", json={"type": "hello", "params": {"times": 1000, "pause": 0.05}}).json()
    eventually(lambda: api.get(f"/runs/{reply['id']}").json()["progress"])
    shown = server.command("runs", "show", reply["id"]).stdout
    assert "of 1,000 (" in shown
    assert "%): greetings" in shown


def test_the_scratch_directory_of_a_killed_worker_is_swept_at_the_next_start(
    api: httpx2.Client, server: Server
) -> None:
    command = ["sh", "-c", "mkdir -p deep/er && touch deep/er/file && chmod -R a-w . && echo there && sleep 100"]
    reply = api.post("/runs", json={"type": "hello", "params": {"times": 1, "pause": 0, "command": command}}).json()
    scratch = server.directory / "scratch"
    eventually(lambda: list(scratch.glob("*/*/deep/er/file")))
    (old,) = scratch.glob("*/*")
    assert oct(old.parent.stat().st_mode)[-3:] == "700"
    server.kill_tree()
    assert old.exists()
    server.start()
    eventually(lambda: not old.exists())
    with server.client() as later:
        later.post(f"/runs/{reply['id']}/cancel", json={"force": True})
        eventually(lambda: later.get(f"/runs/{reply['id']}").json()["finished_at"])
    eventually(lambda: not list(scratch.glob("*/*")))


def test_a_signed_out_websocket_is_refused(make_server: Callable[..., Server], tmp_path: Path) -> None:

    plant(
        tmp_path / "site",
        "socket-page",
        HEAD
        + """
@hookimpl
def taskman_routes(app):
    from quart import websocket
    @app.websocket("/talk")
    async def talk():
        await websocket.send("hello")
""",
        entry="socket = socket_page",
    )
    server = make_server("other", environment={"PYTHONPATH": str(tmp_path / "site")})
    with httpx2.Client(base_url=server.url, trust_env=False) as client:
        session = client.get(server.link).cookies["taskman_session"]
    assert " 401 " in handshake(server, "")
    assert " 401 " in handshake(server, "taskman_session=wrong")
    assert " 101 " in handshake(server, f"taskman_session={session}")


def handshake(server: Server, cookie: str) -> str:
    """The status line that a WebSocket's opening gets."""
    where = urlsplit(server.url)
    with socket.create_connection((where.hostname, where.port), timeout=10) as wire:
        head = f"GET /talk HTTP/1.1\r\nHost: {where.netloc}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        wire.sendall(f"{head}{key}Cookie: {cookie}\r\n\r\n".encode())
        return wire.recv(4096).decode(errors="replace").split("\r\n")[0] + " "
