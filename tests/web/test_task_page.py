"""What people do by hand to the schedules of a task, on its page: forms as a browser without JavaScript sends them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from typing import Any

import httpx2
import pytest
from harness import Server

HOURLY = {"every": "1h", "anchor": "2026-01-01T00:00:00Z"}
NIGHTLY = {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}
DAY = {"from": "2026-02-01T00:00", "to": "2026-02-01T23:59"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server, whose own clock is that of Lima."""
    server = Server(tmp_path_factory.mktemp("page") / "data", environment={"TASKMAN_TIMEZONE": "America/Lima"})
    yield server.start()
    server.kill_tree()


@pytest.fixture
def api(site: Server) -> Iterator[httpx2.Client]:
    with site.client() as client:
        yield client
        for task in client.get("/tasks").json()["items"]:
            client.delete(f"/tasks/{task['name']}")


@pytest.fixture(scope="module")
def browser(site: Server) -> Iterator[httpx2.Client]:
    """A browser that is signed in and follows where it is led."""
    with httpx2.Client(base_url=site.url, timeout=30, trust_env=False, follow_redirects=True) as client:
        client.get(site.link)
        yield client


def save(api: httpx2.Client, name: str, *schedules: dict[str, Any]) -> dict[str, Any]:
    body = {"name": name, "type": "shell", "params": {"command": "true"}, "schedules": list(schedules)}
    reply = api.post("/tasks", json=body)
    assert reply.status_code == 201, reply.text
    saved: dict[str, Any] = reply.json()
    return saved


def forms(page: str, here: str = "") -> list[tuple[str, dict[str, str]]]:
    """The forms that post: where to, and the fields that the page fills in, with its last button."""
    found = []
    for attributes, inside in re.findall(r'<form ([^>]*method="post"[^>]*)>(.*?)</form>', page, re.DOTALL):
        action = re.search(r'action="([^"]*)"', attributes)
        pairs = re.findall(r'<(?:input|button)[^>]* name="([^"]*)"[^>]* value="([^"]*)"', inside)
        chosen = re.findall(r'<select[^>]* name="([^"]*)".*?<option value="([^"]*)" selected', inside, re.DOTALL)
        found.append((action[1] if action else here, {name: unescape(value) for name, value in pairs + chosen}))
    return found


def press(browser: httpx2.Client, page: httpx2.Response, verb: str, **typed: str) -> httpx2.Response:
    """Send the last form of the page that posts there, with what was typed."""
    path = str(page.url.path)
    action, fields = [one for one in forms(page.text, path) if one[0].endswith(f"/{verb}")][-1]
    return browser.post(action, data={**fields, **typed})


def text_of(page: httpx2.Response) -> str:
    """What the page says, in one line."""
    main = page.text.partition("<main")[2].partition("</main>")[0]
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", main)).split())


def notice(page: httpx2.Response) -> tuple[str, str]:
    """The notice on top: its kind and its words."""
    found = re.search(r'<p class="(\w+)" role="status"[^>]*>(.*?)</p>', page.text, re.DOTALL)
    assert found is not None, page.text
    return found[1], re.sub(r"<[^>]+>", "", found[2]).strip()


def faults(page: httpx2.Response) -> dict[str, str]:
    """What is wrong, by the field beside which it stands."""
    found = re.findall(r'<p class="fault" id="(\w+)-faults">.*?<span>(.*?)</span>', page.text, re.DOTALL)
    return {name: unescape(words) for name, words in found}


# pause and resume


def test_one_button_pauses_and_resumes_and_the_page_says_how_it_stands(
    browser: httpx2.Client, api: httpx2.Client
) -> None:
    save(api, "nightly", NIGHTLY)
    page = browser.get("/tasks/nightly")
    assert "paused" not in text_of(page)
    paused = press(browser, page, "pause")
    assert paused.url.path == "/tasks/nightly"
    assert "Its schedules are paused." in text_of(paused)
    assert [action for action, _ in forms(paused.text) if action.startswith("/tasks/nightly/")] == [
        "/tasks/nightly/runs",
        "/tasks/nightly/resume",
    ]
    assert api.get("/tasks/nightly").json()["enabled"] is False
    resumed = press(browser, paused, "resume")
    assert re.fullmatch(r"It goes on\. It is due next \w+ .*, 02:30 Europe/Berlin\.", notice(resumed)[1])
    assert "paused" not in text_of(resumed)
    assert api.get("/tasks/nightly").json()["enabled"] is True


def test_the_list_marks_a_paused_task(browser: httpx2.Client, api: httpx2.Client) -> None:
    save(api, "nightly", NIGHTLY)
    assert "paused" not in text_of(browser.get("/tasks"))
    api.post("/tasks/nightly/pause")
    assert "paused" in text_of(browser.get("/tasks"))


def test_a_task_without_schedules_has_nothing_to_pause_skip_or_backfill(
    browser: httpx2.Client, api: httpx2.Client
) -> None:
    save(api, "byhand")
    page = browser.get("/tasks/byhand")
    assert [action for action, _ in forms(page.text) if "byhand" in action] == ["/tasks/byhand/runs"]
    assert "/backfill" not in page.text
    assert "no instant of the past was due" in text_of(browser.get("/tasks/byhand/backfill"))


def test_a_paused_task_without_schedules_can_be_resumed(browser: httpx2.Client, api: httpx2.Client) -> None:
    save(api, "byhand")
    api.post("/tasks/byhand/pause")
    assert notice(press(browser, browser.get("/tasks/byhand"), "resume")) == ("notice", "It goes on.")


def test_what_waits_for_another_task_can_be_paused_but_not_skipped(browser: httpx2.Client, api: httpx2.Client) -> None:
    save(api, "first")
    save(api, "second", {"after": [{"task": "first"}]})
    page = browser.get("/tasks/second")
    assert [action for action, _ in forms(page.text) if "second" in action] == [
        "/tasks/second/runs",
        "/tasks/second/pause",
    ]


# skip the next


def test_skipping_says_which_instant_and_what_comes_next(browser: httpx2.Client, api: httpx2.Client) -> None:
    save(api, "nightly", NIGHTLY)
    before = api.get("/tasks/nightly/next").json()["items"]
    kind, words = notice(press(browser, browser.get("/tasks/nightly"), "skip"))
    assert kind == "notice"
    assert re.fullmatch(r"Skipped \w+ .*, 02:30 Europe/Berlin\. The next one is \w+ .*, 02:30\.", words)
    assert api.get("/tasks/nightly/next").json()["items"][0]["at"] == before[1]["at"]
    (entry,) = api.get("/tasks/nightly/ledger").json()["items"]
    assert (entry["fire_time"], entry["reason"]) == (before[0]["at"], "requested")


def test_the_page_shows_only_instants_at_which_it_may_fire_and_skips_the_first(
    browser: httpx2.Client, api: httpx2.Client
) -> None:
    save(api, "office", {**HOURLY, "timezone": "UTC", "window": "12:00-14:00"})
    page = browser.get("/tasks/office")
    shown = re.findall(r"<li><span>\w+ (.*?), (\d\d:\d\d)</span>", page.text)
    assert {time for _, time in shown} == {"12:00", "13:00"}
    assert notice(press(browser, page, "skip"))[1].partition(" UTC")[0].endswith(", ".join(shown[0]))


def test_a_skip_sent_twice_skips_once_and_says_so(browser: httpx2.Client, api: httpx2.Client) -> None:
    save(api, "nightly", NIGHTLY)
    page = browser.get("/tasks/nightly")
    press(browser, page, "skip")
    again = press(browser, page, "skip")
    assert notice(again) == ("warning", "Nothing was skipped: that instant has passed, or was skipped before.")
    assert len(api.get("/tasks/nightly/ledger").json()["items"]) == 1


def test_each_timed_schedule_is_skipped_by_itself(browser: httpx2.Client, api: httpx2.Client) -> None:
    save(api, "both", NIGHTLY, {"after": "5m"}, HOURLY)
    page = browser.get("/tasks/both")
    skips = [fields["schedule"] for action, fields in forms(page.text) if action == "/tasks/both/skip"]
    assert skips == ["0", "2"]
    press(browser, page, "skip")
    assert [one["schedule"] for one in api.get("/tasks/both/ledger").json()["items"]] == [2]


def test_the_last_instant_of_all_is_skipped(browser: httpx2.Client, api: httpx2.Client) -> None:
    save(api, "once", {"at": "2999-01-01T12:00:00Z", "timezone": "UTC"})
    page = press(browser, browser.get("/tasks/once"), "skip")
    assert notice(page)[1] == "Skipped Tue 1 Jan 2999, 12:00 UTC. It is not due again."
    assert "never due again" in text_of(page)


# backfill


def test_a_backfill_is_counted_first_and_made_once_confirmed(browser: httpx2.Client, api: httpx2.Client) -> None:
    save(api, "hourly", {**HOURLY, "timezone": "Europe/Berlin"})
    counted = press(browser, browser.get("/tasks/hourly/backfill"), "backfill", **DAY)
    assert "24 runs to make" in text_of(counted)
    assert "first Sun 1 Feb 2026, 00:00 last Sun 1 Feb 2026, 23:00" in text_of(counted)
    assert api.get("/runs", params={"task": "hourly"}).json()["items"] == []
    made = press(browser, counted, "backfill")
    assert made.url.path == "/tasks/hourly"
    assert notice(made) == ("notice", "24 runs made.")
    runs = api.get("/runs", params={"task": "hourly"}).json()["items"]
    assert len(runs) == 24
    assert min(run["fire_time"] for run in runs) == "2026-01-31T23:00:00.000Z", "midnight in Berlin"
    assert {run["trigger"] for run in runs} == {"ui"}


def test_what_had_run_is_told_beforehand_and_gets_no_second_run(browser: httpx2.Client, api: httpx2.Client) -> None:
    save(api, "again", {**HOURLY, "timezone": "UTC"})
    past = {"from": "2026-02-01T00:00:00Z", "to": "2026-02-01T04:59:00Z"}
    assert api.post("/tasks/again/backfill", json=past).json()["created"] == 5
    form = browser.get("/tasks/again/backfill")
    counted = press(browser, form, "backfill", **DAY)
    assert "19 runs to make due 24 times" in text_of(counted)
    assert "had run 5 of them" in text_of(counted)
    assert notice(press(browser, counted, "backfill"))[1] == "19 runs made. 5 had run already."
    again = press(browser, form, "backfill", **DAY)
    assert "Nothing is left to run" in text_of(again)
    assert "revision" not in forms(again.text)[-1][1]


def test_a_stretch_in_which_nothing_was_due_offers_nothing(browser: httpx2.Client, api: httpx2.Client) -> None:
    save(api, "nightly", NIGHTLY)
    typed = {"from": "2026-02-01T03:00", "to": "2026-02-01T04:00"}
    counted = press(browser, browser.get("/tasks/nightly/backfill"), "backfill", **typed)
    assert "Nothing was due in that time" in text_of(counted)
    assert 'name="revision"' not in counted.text


def test_one_of_several_schedules_is_chosen(browser: httpx2.Client, api: httpx2.Client) -> None:
    save(api, "both", {**HOURLY, "timezone": "UTC"}, {"after": "5m"}, {"cron": "30 2 * * *", "timezone": "UTC"})
    form = browser.get("/tasks/both/backfill")
    assert re.findall(r'<option value="(\w*)"', form.text) == ["all", "0", "2"]
    assert "25 runs to make" in text_of(press(browser, form, "backfill", **DAY))
    counted = press(browser, form, "backfill", **DAY, schedule="2")
    assert "1 run to make due once at Sun 1 Feb 2026, 02:30" in text_of(counted)
    assert notice(press(browser, counted, "backfill"))[1] == "1 run made."


def test_times_are_on_the_clock_of_the_schedules_or_of_the_server_when_they_differ(
    browser: httpx2.Client, api: httpx2.Client
) -> None:
    save(api, "berlin", NIGHTLY, {**HOURLY, "timezone": "Europe/Berlin"})
    save(api, "mixed", NIGHTLY, {**HOURLY, "timezone": "UTC"})
    assert "on the clock of Europe/Berlin" in text_of(browser.get("/tasks/berlin/backfill"))
    form = browser.get("/tasks/mixed/backfill")
    assert "on the clock of America/Lima" in text_of(form)
    counted = press(browser, form, "backfill", **DAY, schedule="0")
    assert "due once at Sun 1 Feb 2026, 20:30" in text_of(counted), "02:30 in Berlin, told in Lima"


@pytest.mark.parametrize(
    ("typed", "wrong"),
    [
        ({"from": "", "to": ""}, {"from": "'from' is required", "to": "'to' is required"}),
        ({"from": "yesterday"}, {"from": "Write a date and a time as 2026-12-01T09:00"}),
        ({"from": DAY["to"], "to": DAY["from"]}, {"to": "'to' is before 'from'"}),
        ({"to": "2999-01-01T00:00"}, {"to": "'to' lies in the future: a backfill runs what is past"}),
        (
            {"from": "2026-01-02T00:00", "to": "2026-03-01T00:00"},
            {"from": "1,393 instants are due in that time, at most 1,000 at once: take a shorter one"},
        ),
        ({"schedule": "9"}, {"schedule": "Task 'both' has no schedule 9: numbers go from 0 to 1"}),
    ],
)
def test_a_fault_stands_at_its_field_and_what_was_typed_is_kept(
    browser: httpx2.Client, api: httpx2.Client, typed: dict[str, str], wrong: dict[str, str]
) -> None:
    save(api, "both", {**HOURLY, "timezone": "UTC"}, {"at": "2999-01-01T00:00:00Z", "timezone": "UTC"})
    sent = {**DAY, **typed}
    reply = press(browser, browser.get("/tasks/both/backfill"), "backfill", **sent)
    assert reply.status_code == 422
    assert faults(reply) == wrong
    shown = next(fields for action, fields in forms(reply.text, "here") if action == "here")
    assert {name: shown[name] for name in DAY} == {name: sent[name] for name in DAY}
    assert "No run was made yet." in text_of(reply)
    assert 'name="revision"' not in reply.text


def test_a_task_that_was_changed_after_the_count_is_counted_again(browser: httpx2.Client, api: httpx2.Client) -> None:
    saved = save(api, "changed", {**HOURLY, "timezone": "UTC"})
    counted = press(browser, browser.get("/tasks/changed/backfill"), "backfill", **DAY)
    body = {name: saved[name] for name in ("type", "params")} | {"schedules": [{**HOURLY, "every": "2h"}]}
    assert api.put("/tasks/changed", json=body).status_code == 200
    again = press(browser, counted, "backfill")
    assert again.status_code == 409
    assert "The task was changed in the meantime" in text_of(again)
    assert "12 runs to make" in text_of(again)
    assert api.get("/runs", params={"task": "changed"}).json()["items"] == []


# what all of them share


@pytest.mark.parametrize("verb", ["pause", "resume", "skip", "backfill"])
def test_a_form_without_its_token_does_nothing(browser: httpx2.Client, api: httpx2.Client, verb: str) -> None:
    saved = save(api, f"no-{verb}", HOURLY)
    assert browser.post(f"/tasks/no-{verb}/{verb}", data={**DAY, "revision": str(saved["revision"])}).status_code == 403
    now = api.get(f"/tasks/no-{verb}").json()
    assert [now[name] for name in ("revision", "next_at")] == [saved[name] for name in ("revision", "next_at")]
    assert api.get("/runs", params={"task": f"no-{verb}"}).json()["items"] == []


@pytest.mark.parametrize("verb", ["pause", "resume", "skip", "backfill"])
def test_a_task_that_is_not_there_is_missed(browser: httpx2.Client, api: httpx2.Client, verb: str) -> None:
    save(api, "hourly", HOURLY)
    token = dict(forms(browser.get("/tasks/hourly").text)[0][1])
    assert browser.post(f"/tasks/hurly/{verb}", data=token).status_code == 404


def test_the_stream_sends_what_the_page_has_also_when_it_is_paused(browser: httpx2.Client, api: httpx2.Client) -> None:
    save(api, "hourly", HOURLY)
    with browser.stream("GET", "/live/tasks/hourly") as stream:
        blocks = fragments(stream)
        assert "/tasks/hourly/pause" in next(blocks)
        api.post("/tasks/hourly/pause")
        sent = next(block for block in blocks if "/tasks/hourly/resume" in block)
    assert 'hx-target="#task"' in sent
    page = browser.get("/tasks/hourly")
    shown = page.text.partition('<div id="task" hx-ignore>')[2].partition("<div hx-sse:connect")[0]
    assert words(sent) == words(shown.rpartition("</div>")[0])


def fragments(stream: httpx2.Response) -> Iterator[str]:
    """The data of each event."""
    lines: list[str] = []
    for line in stream.iter_lines():
        if line.startswith("data:"):
            lines.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and lines:
            yield "\n".join(lines)
            lines = []


def words(fragment: str) -> list[str]:
    """A fragment without what is around it, and without its white space."""
    return re.sub(r"</?hx-partial[^>]*>", "", fragment).split()
