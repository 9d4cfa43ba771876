"""Progress on its way to a page: the bar and the log both move, also when the task reports without a pause."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from harness import Server, eventually
from planting import HEAD, plant

PLUGIN = """
import trio

class Busy(TaskType):
    name = "busy"
    class Params(BaseModel):
        total: bool = True
    async def run(self, context, params):
        for number in range(100_000):
            context.log(f"line {number}")
            await context.progress(number, 100_000 if params.total else None, "<b>counting</b>")
            await trio.sleep(0.01)

@hookimpl
def taskman_task_types(): return [Busy()]
"""


@pytest.fixture
def server(make_server: Callable[..., Server], tmp_path: Path) -> Server:
    plant(tmp_path / "site", "busy", HEAD + PLUGIN)
    return make_server(environment={"PYTHONPATH": str(tmp_path / "site")})


@pytest.fixture
def api(server: Server) -> Iterator[httpx2.Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def browser(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=30, trust_env=False, follow_redirects=True) as client:
        client.get(server.link)
        yield client


def submit(api: httpx2.Client, **params: Any) -> str:
    run_id: str = api.post("/runs", json={"type": "busy", "params": params}).json()["id"]
    eventually(lambda: api.get(f"/runs/{run_id}").json()["progress"])
    return run_id


def test_the_stream_of_a_page_moves_the_bar_and_the_log(api: httpx2.Client, browser: httpx2.Client) -> None:
    run_id = submit(api)
    bars, lines = set(), 0
    with browser.stream("GET", f"/live/runs/{run_id}") as stream:
        for text in stream.iter_lines():
            if '<progress aria-label="Progress" value="0" max="100">' in text:
                continue
            if "of 100,000 (" in text:
                bars.add(text)
                assert "&lt;b&gt;counting&lt;/b&gt;" in text
            lines += "line " in text
            if len(bars) >= 4 and lines >= 40:
                break


def test_without_a_total_there_is_a_number_and_no_share(api: httpx2.Client, browser: httpx2.Client) -> None:
    run_id = submit(api, total=False)
    page = browser.get(f"/runs/{run_id}").text
    assert '<progress aria-label="Progress"></progress>' in page
    assert " done: &lt;b&gt;counting" in page


def test_a_run_that_was_cancelled_says_how_far_it_had_come(api: httpx2.Client, browser: httpx2.Client) -> None:
    run_id = submit(api)
    api.post(f"/runs/{run_id}/cancel", json={})
    eventually(lambda: api.get(f"/runs/{run_id}").json()["finished_at"])
    page = browser.get(f"/runs/{run_id}").text
    assert "<progress " not in page
    assert "It had come to " in page
