"""Everything that speaks to a server does so through TLS, once it is told whom to trust."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from harness import eventually
from remote_workers import WorkerProcess
from tls.conftest import Secured
from tls.speakers import CLIENTS, TRUSTED, Speaker, environment
from topology.submitting import finished

from taskman import AsyncClient, Client
from taskman.trust import trusting

Make = Callable[..., WorkerProcess]
SLOW_LOG = "i=0; while [ $i -lt 20 ]; do i=$((i+1)); echo line $i; sleep 0.05; done"
LINES = [f"line {number}" for number in range(1, 21)]
WAYS = ["TASKMAN_CA_FILE", "SSL_CERT_FILE"]


@pytest.fixture
def make_worker(secured: Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Start worker nodes that enter where the certificate is good."""
    made: list[WorkerProcess] = []
    for name in TRUSTED:
        monkeypatch.delenv(name, raising=False)

    def make(*options: str, **more: str) -> WorkerProcess:
        directory = tmp_path / f"worker-{len(made)}"
        made.append(WorkerProcess(directory, secured.good.url, secured.site.worker_token, *options, **more))
        return made[-1].start()

    yield make
    for worker in made:
        if worker.process is not None:
            worker.kill_tree()


@pytest.fixture
def trusted(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process trusts the authority, as a program of a user would."""
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", secured.trust)


def submitted(secured: Secured, worker: WorkerProcess, command: str) -> str:
    """The id of a run for that worker."""
    body = {"type": "shell", "params": {"command": command}, "requires": {"worker": worker.id}}
    with secured.site.client() as http:
        return str(http.post("/runs", json=body).json()["id"])


@pytest.mark.parametrize("way", WAYS)
def test_a_worker_joins_and_runs(secured: Secured, make_worker: Make, way: str) -> None:
    worker = make_worker(**{way: secured.trust}).connected()
    [run] = finished(secured.site, [submitted(secured, worker, "echo hello")])
    assert (run["state"], run["worker"]) == ("succeeded", worker.id)
    assert worker.end() == 0


def test_a_worker_takes_the_authority_as_an_option(secured: Secured, make_worker: Make) -> None:
    make_worker("--ca-file", secured.trust, SSL_CERT_FILE="/nowhere").connected()


def test_the_log_of_a_worker_is_followed_live_line_by_line(secured: Secured, make_worker: Make, trusted: None) -> None:
    worker = make_worker(TASKMAN_CA_FILE=secured.trust).connected()
    run = submitted(secured, worker, SLOW_LOG)
    with Client(secured.good.url, secured.site.admin_token) as client:
        lines = client.logs(run, follow=True)
        assert next(lines).text == "line 1"
        assert client.get(run).state == "running"
        assert [line.text for line in lines] == LINES[1:]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("speak", CLIENTS)
def test_a_client_is_answered(secured: Secured, tmp_path: Path, speak: Speaker, way: str) -> None:
    said = speak(secured.good.url, secured.site.admin_token, tmp_path, {way: secured.trust})
    assert said.code == 0, said.text


def test_the_command_line_runs_something_and_prints_its_log(
    secured: Secured, make_worker: Make, tmp_path: Path
) -> None:
    make_worker("--queue", "secured", TASKMAN_CA_FILE=secured.trust).connected()
    (tmp_path / "taskman.toml").write_text(f"server = '{secured.good.url}'\nca_file = '{secured.trust}'\n")
    command = [sys.executable, "-P", "-m", "taskman", "run", "--queue", "secured"]
    done = subprocess.run(
        [*command, "-t", "shell", "-p", "command=echo hello; exit 3"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        env=environment(tmp_path, TASKMAN_TOKEN=secured.site.admin_token),
    )
    assert (done.returncode, done.stdout) == (6, "hello\n"), done.stderr


def test_a_client_takes_the_authority_as_an_argument(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    with Client(secured.good.url, secured.site.admin_token, ca_file=secured.authority.file) as client:
        assert client.queues() is not None


async def test_a_client_under_trio_takes_it_too_and_follows(
    secured: Secured, make_worker: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make_worker(TASKMAN_CA_FILE=secured.trust).connected()
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    async with AsyncClient(secured.good.url, secured.site.admin_token, ca_file=secured.trust) as client:
        run = await client.submit("shell", {"command": SLOW_LOG}, requires={"worker": worker.id})
        assert [line.text async for line in client.logs(run.id, follow=True)] == LINES
        assert (await client.wait(run.id)).has_succeeded


def test_the_cookie_of_a_session_stays_off_plain_connections(secured: Secured) -> None:
    form = {"token": secured.site.admin_token}

    def cookie(http: httpx2.Client) -> str:
        page = http.get("/login").text
        token = page.partition('name="csrf_token" value="')[2].partition('"')[0]
        data = {**form, "csrf_token": token} if token else form
        reply = http.post("/login", data=data, headers={"Sec-Fetch-Site": "same-origin"})
        return next(one for one in reply.headers.get_list("Set-Cookie") if one.startswith("taskman_session="))

    with httpx2.Client(base_url=secured.good.url, verify=trusting(secured.trust), trust_env=False) as http:
        assert "; Secure" in cookie(http)
    with httpx2.Client(base_url=secured.site.url, trust_env=False) as http:
        assert "; Secure" not in cookie(http)


def test_a_certificate_that_expires_under_way_costs_no_attempt(
    secured: Secured, make_worker: Make, tmp_path: Path
) -> None:
    go, certificate = tmp_path / "go", secured.good.certificate
    worker = make_worker(TASKMAN_CA_FILE=secured.trust).connected()
    run = submitted(secured, worker, f"echo begun; while [ ! -e {go} ]; do sleep 0.05; done; echo ended")
    with secured.site.client() as http:
        eventually(lambda: http.get(f"/runs/{run}").json()["state"] == "running", "it runs")
    good = certificate.read_bytes()
    _serve_with(secured, secured.expired.certificate.read_bytes())
    eventually(lambda: "it has expired" in worker.errors(), f"the worker says why: {worker.errors()}")
    go.touch()
    _serve_with(secured, good)
    worker.connected(times=2)
    [found] = finished(secured.site, [run])
    assert (found["state"], len(found["attempts"])) == ("succeeded", 1)
    with secured.site.client() as http:
        assert http.get(f"/runs/{run}/log", headers={"Accept": "text/plain"}).text == "begun\nended\n"


def _serve_with(secured: Secured, certificate: bytes) -> None:
    secured.good.certificate.write_bytes(certificate)
    secured.site.balancer.stop()
    secured.site.balancer.start()
    secured.site.until_all_serve()


def test_errors_of_the_server_come_through_as_json(secured: Secured, tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "taskman", "runs", "list", "--json"]
    given: dict[str, Any] = {"TASKMAN_SERVER": secured.good.url, "TASKMAN_CA_FILE": secured.trust}
    wrong = environment(tmp_path, TASKMAN_TOKEN="tm_unknown", **given)
    done = subprocess.run(command, capture_output=True, text=True, env=wrong, timeout=60, cwd=tmp_path)
    assert done.returncode == 4
    right = environment(tmp_path, TASKMAN_TOKEN=secured.site.admin_token, **given)
    done = subprocess.run(command, capture_output=True, text=True, env=right, timeout=60, cwd=tmp_path)
    assert json.loads(done.stdout)["items"] is not None
