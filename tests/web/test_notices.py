"""The notice after a form: once, and not as a success when nothing was done."""

from __future__ import annotations

import re

import httpx2
from harness import Server


def test_a_refusal_looks_like_one_and_is_shown_once(server: Server) -> None:
    with server.client() as api:
        run_id = api.post("/runs", json={"type": "shell", "params": {"command": "true"}}).json()["id"]
        api.get(f"/runs/{run_id}", params={"wait": 20})
    with httpx2.Client(base_url=server.url, timeout=30, trust_env=False, follow_redirects=True) as browser:
        browser.get(server.link)
        token = re.findall(r'name="form_token" value="(\w+)"', browser.get("/").text)[0]
        refused = browser.post(f"/runs/{run_id}/cancel", data={"form_token": token}).text
        assert '<p class="warning" role="status"' in refused
        assert f"<span>Run {run_id} is final (succeeded): there is nothing left to cancel.</span>" in refused
        again = browser.post(f"/runs/{run_id}/again", data={"form_token": token})
        assert '<p class="notice" role="status"' in again.text
        assert 'role="status" hx-ignore' not in browser.get(str(again.url)).text
