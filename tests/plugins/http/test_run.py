"""The http task type in runs of a real server, over its API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from harness import Server
from httpsite import Request, Site, reply, until_closed


@pytest.fixture
async def api(server: Server) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the API that lets the site answer meanwhile."""
    async with client_of(server) as client:
        yield client


def client_of(server: Server) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {server.token}"}
    return httpx2.AsyncClient(base_url=f"{server.url}/api/v1", headers=headers, timeout=30, trust_env=False)


async def submit(api: httpx2.AsyncClient, url: str, options: dict[str, Any] | None = None, **params: Any) -> str:
    answer = await api.post("/runs", json={"type": "http", "params": {"url": url, **params}, **(options or {})})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def ended(api: httpx2.AsyncClient, run_id: str) -> Any:
    return (await api.get(f"/runs/{run_id}", params={"wait": 20})).json()


async def test_a_run_has_the_answer_as_its_result(api: httpx2.AsyncClient, site: Site) -> None:
    site.answers["/"] = reply(200, b"hello", content_type="text/plain")
    run = await ended(api, await submit(api, site.url("/?key=s3cret"), headers={"Authorization": "Bearer s3cret"}))
    assert (run["state"], run["result"]["status"], run["result"]["body"]) == ("succeeded", 200, "hello")
    assert run["result"]["truncated"] is False
    log = (await api.get(f"/runs/{run['id']}/log", headers={"Accept": "text/plain"})).text
    assert "200 OK" in log
    assert "s3cret" not in log


async def test_a_server_that_is_busy_is_asked_again_when_it_says(api: httpx2.AsyncClient, site: Site) -> None:
    async def busy_once(request: Request, stream: trio.abc.Stream) -> None:
        busy = reply(503, b"busy", content_type="text/plain", retry_after="1")
        await stream.send_all(busy if len(site.requests) == 1 else reply(204))

    site.answers["/"] = busy_once
    retry = {"max_attempts": 2, "backoff": {"kind": "fixed", "base": 3600}}
    run = await ended(api, await submit(api, site.url(), {"retry": retry}))
    assert run["state"] == "succeeded"
    assert [one["state"] for one in run["attempts"]] == ["failed", "succeeded"]
    assert run["attempts"][0]["result"]["body"] == "busy"


async def test_without_attempts_left_the_last_answer_is_kept(api: httpx2.AsyncClient, site: Site) -> None:
    site.answers["/"] = reply(429, b"enough", content_type="text/plain", retry_after="1")
    run = await ended(api, await submit(api, site.url()))
    assert (run["state"], run["reason"], run["result"]["body"]) == ("failed", "error", "enough")
    assert "429 Too Many Requests" in run["error"]


async def test_a_refused_address_is_not_tried_again(api: httpx2.AsyncClient) -> None:
    run = await ended(api, await submit(api, "http://169.254.169.254/", {"retry": {"max_attempts": 3}}))
    assert (run["state"], run["reason"], run["attempt"]) == ("failed", "error", 1)
    assert "TASKMAN_HTTP_ALLOW" in run["error"]


async def test_cancelling_a_run_closes_its_connection(api: httpx2.AsyncClient, site: Site) -> None:
    arrived, gone = trio.Event(), trio.Event()

    async def wait(request: Request, stream: trio.abc.Stream) -> None:
        arrived.set()
        await until_closed(request, stream)
        gone.set()

    site.answers["/"] = wait
    run_id = await submit(api, site.url())
    with trio.fail_after(20):
        await arrived.wait()
        assert (await api.post(f"/runs/{run_id}/cancel")).status_code == 202
        await gone.wait()
        assert (await ended(api, run_id))["state"] == "cancelled"


async def test_an_attempt_has_its_timeout(api: httpx2.AsyncClient, site: Site) -> None:
    site.answers["/"] = until_closed
    run = await ended(api, await submit(api, site.url(), {"timeout": 0.2}))
    assert (run["state"], run["reason"]) == ("failed", "timeout")


async def test_impossible_params_are_refused_with_their_fields(api: httpx2.AsyncClient) -> None:
    params = {"url": "example.com", "headers": {"X": "a\r\nb"}, "expected_status": ["2xx"], "cheese": 1}
    answer = await api.post("/runs", json={"type": "http", "params": params})
    assert answer.status_code == 422
    pointers = {fault["pointer"] for fault in answer.json()["errors"]}
    assert pointers == {f"/params/{name}" for name in params}


async def test_the_policy_may_stand_in_a_file(make_server: Callable[..., Server], site: Site, tmp_path: Path) -> None:
    site.answers["/"] = reply(204)
    folder = tmp_path / "config" / "taskman"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('http_deny = ["loopback"]\nhttp_allow = ["127.0.0.1", "10.0.0.0/8"]\n')
    more = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    async with client_of(make_server(environment=more)) as api:
        assert (await ended(api, await submit(api, site.url())))["state"] == "succeeded"
        refused = await ended(api, await submit(api, site.url(host="127.0.0.2")))
        assert "TASKMAN_HTTP_DENY" in refused["error"]
