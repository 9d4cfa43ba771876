"""Schedules over the API of a real server: previews, what a task has before it, and all schedules by time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from harness import Server


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("schedules") / "data", environment={"TASKMAN_TIMEZONE": "Europe/Berlin"})
    yield server.start()
    server.kill_tree()


@pytest.fixture
def api(site: Server) -> Iterator[httpx2.Client]:
    with site.client() as client:
        yield client
        for task in client.get("/tasks", params={"limit": 1000}).json()["items"]:
            client.delete(f"/tasks/{task['name']}")


def save(api: httpx2.Client, name: str, *schedules: dict[str, Any], **more: Any) -> dict[str, Any]:
    body = {"name": name, "type": "shell", "params": {"command": "true"}, "schedules": list(schedules), **more}
    reply = api.post("/tasks", json=body)
    assert reply.status_code == 201, reply.text
    saved: dict[str, Any] = reply.json()
    return saved


def test_a_preview_has_words_items_and_warnings(api: httpx2.Client) -> None:
    body = {"cron": "30 2 * * *", "timezone": "America/New_York", "n": 2, "from": "2027-03-13T12:00:00Z"}
    reply = api.post("/schedules/preview", json=body)
    assert reply.status_code == 200
    assert reply.json() == {
        "text": "At 02:30, on the clock of America/New_York",
        "items": [
            {
                "at": "2027-03-14T07:00:00.000Z",
                "local": "2027-03-14T03:00:00-04:00",
                "notes": ["02:30 does not exist that day: runs 03:00"],
            },
            {"at": "2027-03-15T06:30:00.000Z", "local": "2027-03-15T02:30:00-04:00", "notes": []},
        ],
        "warnings": ["12 March 2028: 02:30 does not exist that day: runs 03:00"],
    }


@pytest.mark.parametrize(
    ("body", "text", "count"),
    [
        ({"cron": "@daily"}, "At 00:00, on the clock of Europe/Berlin", 10),
        ({"every": "10m", "n": 3}, "Every 10 min", 3),
        ({"at": "2999-01-01T00:00:00Z"}, "Once, 1 January 2999 01:00", 1),
        ({"after": "5m"}, "5 min after its last run ended", 0),
    ],
)
def test_every_kind_has_a_preview(api: httpx2.Client, body: dict[str, Any], text: str, count: int) -> None:
    shown = api.post("/schedules/preview", json=body).json()
    assert (shown["text"], len(shown["items"])) == (text, count)


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ({"cron": "61 * * * *"}, {"/cron": "the minute field '61'"}),
        ({"cron": "0 0 30 2 *"}, {"/cron": "never fires"}),
        ({"cron": "0 0 29 2 */7", "from": "2033-01-01T00:00Z"}, {"/cron": "not within ten years"}),
        ({"at": "2000-01-01T00:00:00Z"}, {"/at": "is never due after"}),
        ({"cron": "@daily", "end": "2000-01-01T00:00:00Z"}, {"/cron": "is never due after"}),
        ({"cron": "@daily", "from": "0001-01-01T00:00:00Z"}, {"/from": "between 1970 and 2200"}),
        (
            {"cron": "61 * * * *", "n": 0, "from": "now", "zone": "UTC"},
            {"/cron": "61", "/n": "1", "/from": "write", "/zone": "no field"},
        ),
        ({}, {"": "exactly one"}),
        ([], {"": "JSON object"}),
    ],
)
def test_a_preview_of_nonsense_says_what_is_wrong(api: httpx2.Client, body: object, faults: dict[str, str]) -> None:
    reply = api.post("/schedules/preview", json=body)
    assert reply.status_code == 422
    found = {fault["pointer"]: fault["detail"] for fault in reply.json()["errors"]}
    assert found.keys() == faults.keys()
    assert all(text in found[pointer] for pointer, text in faults.items())


def test_the_next_due_instants_of_a_task_come_from_all_its_schedules(api: httpx2.Client) -> None:
    save(api, "other", {"cron": "0 0 1 1 *", "timezone": "UTC"})
    save(api, "mixed", {"cron": "0 0 1 1 *", "timezone": "UTC"}, {"at": "2999-01-01T00:00:00Z"}, {"after": "5m"})
    items = api.get("/tasks/mixed/next", params={"n": 3}).json()["items"]
    assert [(one["schedule"], one["notes"]) for one in items] == [(0, ["collides with 1 other"])] * 3
    assert items == sorted(items, key=lambda one: str(one["at"]))
    everything = api.get("/tasks/mixed/next", params={"n": 100}).json()["items"]
    assert len(everything) == 100


def test_collisions_are_counted_among_hundreds_of_tasks(api: httpx2.Client) -> None:
    for number in range(230):
        save(api, f"midnight-{number}", {"cron": "0 0 * * *", "timezone": "UTC", "params": {"command": f"{number}"}})
    save(api, "noon", {"cron": "0 12 * * *", "timezone": "UTC"})
    told = api.post("/schedules/preview", json={"cron": "0 */12 * * *", "timezone": "UTC", "n": 2}).json()
    assert sorted(one["notes"] for one in told["items"]) == [["collides with 1 other"], ["collides with 230 others"]]
    assert api.get("/tasks/nixed/next").status_code == 404
    assert api.get("/tasks/mixed/next", params={"n": 0}).status_code == 422


def test_what_would_overlap_is_noted_from_how_long_it_took(api: httpx2.Client) -> None:
    save(api, "slow", {"every": "1s", "start": "2998-01-01T00:00Z"}, params={"command": "sleep 1.2"})
    run = api.post("/tasks/slow/runs").json()
    assert api.get(f"/runs/{run['id']}", params={"wait": "20"}).json()["state"] == "succeeded"
    first, second = api.get("/tasks/slow/next", params={"n": 2}).json()["items"]
    assert first["notes"] == []
    assert second["notes"][0].startswith("would overlap: usually takes 1.")


def test_a_task_that_is_switched_off_has_nothing_before_it(api: httpx2.Client) -> None:
    save(api, "off", {"cron": "@daily"}, enabled=False)
    assert api.get("/tasks/off/next").json() == {"items": []}


def test_schedules_come_by_their_next_due_instant(api: httpx2.Client) -> None:
    save(api, "late", {"at": "2999-01-01T00:00:00Z"})
    save(api, "soon", {"at": "2998-01-01T00:00:00Z"}, {"at": "2999-06-01T00:00:00Z"})
    run = api.post("/tasks/late/runs").json()
    first = api.get("/schedules", params={"limit": 2}).json()
    assert [(one["task"], one["number"], one["last_run"]) for one in first["items"]] == [
        ("soon", 0, None),
        ("late", 0, run["id"]),
    ]
    assert first["items"][0]["next_at"] == "2998-01-01T00:00:00.000Z"
    assert first["items"][0]["text"] == "Once, 1 January 2998 01:00"
    rest = api.get("/schedules", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [(one["task"], one["number"]) for one in rest["items"]] == [("soon", 1)]
    assert rest["next_cursor"] is None


def test_params_of_a_schedule_are_checked_like_those_of_the_task(api: httpx2.Client) -> None:
    body = {"name": "odd", "type": "shell", "params": {"command": "true"}}
    reply = api.post("/tasks", json={**body, "schedules": [{"cron": "@daily", "params": {"comand": "x"}}]})
    assert reply.status_code == 422
    assert [fault["pointer"] for fault in reply.json()["errors"]] == ["/schedules/0/params/comand"]


def test_a_task_keeps_every_option_of_its_schedules(api: httpx2.Client) -> None:
    full = {
        "cron": "0 23 * * *",
        "timezone": "UTC",
        "start": "2998-01-01T00:00:00.000Z",
        "max_runs": 3,
        "jitter": 60.0,
        "catchup": "all",
        "catchup_window": 7200.0,
        "catchup_max": 5,
        "params": {"command": "false"},
        "exclude": ["2998-12-25"],
        "window": "22:00-06:00",
    }
    assert save(api, "full", full)["schedules"] == [full]
    assert save(api, "chained", {"after": [{"task": "full"}]})["next_at"] is None
