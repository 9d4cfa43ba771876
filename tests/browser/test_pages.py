"""The pages in a real browser: what people do, live, without JavaScript, on a phone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from browsing import Pages
from harness import Server, eventually

pytestmark = pytest.mark.browser

TRIED = "/schedules?cron=30+2+*+*+*&timezone=Europe/Berlin&from=2027-03-27T12:00"
EVERY_PAGE = (
    "/",
    "/runs",
    "/runs/new",
    "/tasks",
    "/tasks/new",
    "/tasks/phone",
    "/tasks/phone/edit",
    "/tasks/phone/backfill",
    "/schedules",
    TRIED,
    "/workers",
    "/plugins",
)


@pytest.fixture
def api(site: Server) -> Iterator[httpx2.Client]:
    """The API of the same server."""
    with site.client() as client:
        yield client


def submit(api: httpx2.Client, command: str) -> str:
    """A run of a command; its id."""
    reply = api.post("/runs", json={"type": "shell", "params": {"command": command}})
    assert reply.status_code == 201, reply.text
    return str(reply.json()["id"])


def save(api: httpx2.Client, name: str, command: str = "true") -> None:
    """A task of that name."""
    body = {"type": "shell", "params": {"command": command}, "schedules": [{"cron": "@daily"}]}
    assert api.put(f"/tasks/{name}", json=body).status_code in (200, 201)


def chip(pages: Pages) -> str:
    """The state that the page of a run shows."""
    return pages.text("h1 .chip")


def lines(pages: Pages) -> int:
    """How many lines the log shows."""
    return len(pages.all("#log .line"))


def test_the_printed_link_signs_in_once(pages: Pages, site: Server) -> None:
    assert pages.path == "/"
    assert [link.text for link in pages.all("nav[aria-label=Main] a")] == [
        "Overview",
        "Runs",
        "Tasks",
        "Schedules",
        "Workers",
        "Plugins",
    ]
    assert httpx2.get(site.link, trust_env=False).status_code == 403


def test_a_page_without_session_leads_to_the_sign_in_and_back(site: Server) -> None:
    with httpx2.Client(base_url=site.url, trust_env=False) as client:
        assert client.get("/live/overview").status_code == 401, "a script gets no form"
        reply = client.get("/runs?state=failed")
        assert (reply.status_code, reply.headers["Location"]) == (303, "/login?next=/runs?state%3Dfailed")
        signed = client.post(reply.headers["Location"], data={"token": site.token})
        assert (signed.status_code, signed.headers["Location"]) == (303, "/runs?state=failed")


def test_creates_a_task_with_a_cron_schedule_and_runs_it(pages: Pages) -> None:
    pages.visit("/tasks/new")
    pages.type("name", "nightly")
    pages.type("params.command", "echo hello from nightly")
    pages.choose("schedules.0.kind", "cron")
    pages.type("schedules.0.cron", "30 2 * * *")
    pages.type("schedules.0.timezone", "Europe/Berlin")
    pages.until(lambda: len(pages.all("#preview-0 li")) == 3, "the preview shows the next fire times")
    assert pages.text("#preview-0 li").split("\n")[0].endswith("02:30")
    pages.press(".form .primary")
    assert pages.path == "/tasks"
    assert pages.text(".notice") == "Task nightly is created."
    assert "30 2 * * * Europe/Berlin" in pages.text("#task-nightly")
    pages.press("#task-nightly button")
    pages.until(lambda: chip(pages) == "succeeded")
    pages.until(lambda: pages.text("#log .line > span") == "hello from nightly")
    pages.visit("/tasks/nightly")
    assert len(pages.all(".fires li")) == 5
    assert len(pages.all(".list.runs tbody tr")) == 1


def test_a_cron_expression_is_explained_while_it_is_typed(pages: Pages, api: httpx2.Client) -> None:
    save(api, "midnight")
    pages.visit("/schedules")
    assert "midnight" in pages.text(".agenda tbody")
    pages.type("timezone", "America/Havana")
    pages.type("cron", "61 * * * *")
    pages.until(lambda: "The minute field '61'" in pages.text("#look"), "the fault is said")
    pages.type("cron", "0 0 13 * FRI")
    words = "At 00:00, on the 13th of the month, or on Friday: either is enough, on the clock of America/Havana."
    pages.until(lambda: pages.all("#look .words") and pages.text("#look .words") == words, "the words are there")
    assert len(pages.all("#look li")) == 8


def test_editing_keeps_the_options_of_a_schedule_that_the_form_does_not_show(pages: Pages, api: httpx2.Client) -> None:
    kept = {"cron": "0 23 * * *", "timezone": "UTC", "window": "22:00-06:00", "max_runs": 9, "params": {"cwd": "/"}}
    schedules = [kept, {"after": [{"task": "other", "on": "always"}], "timezone": "UTC"}]
    body = {"type": "shell", "params": {"command": "true"}, "schedules": schedules}
    assert api.put("/tasks/other", json={"type": "shell", "params": {"command": "true"}}).status_code == 201
    assert api.put("/tasks/kept", json=body).status_code == 201
    pages.visit("/tasks/kept/edit")
    assert pages.one('[name="schedules.1.after"]').get_attribute("value") == "other:always"
    pages.type("description", "edited")
    pages.press(".actions .primary")
    saved = api.get("/tasks/kept").json()
    assert (saved["description"], saved["schedules"]) == ("edited", schedules)


def test_editing_a_task_ends_on_the_list_with_a_notice(pages: Pages, api: httpx2.Client) -> None:
    save(api, "edited")
    pages.visit("/tasks/edited/edit")
    pages.type("description", "what it is for")
    pages.press(".form .primary")
    assert pages.path == "/tasks"
    assert pages.text(".notice") == "Task edited is saved."
    assert "what it is for" in pages.text("#task-edited")
    assert api.get("/tasks/edited").json()["schedules"] == [{"cron": "@daily", "timezone": "UTC"}]
    pages.visit("/tasks")
    assert not pages.all(".notice"), "a notice is shown once"


def test_an_edit_that_crossed_another_is_not_saved_unseen(pages: Pages, api: httpx2.Client) -> None:
    save(api, "crossed")
    pages.visit("/tasks/crossed/edit")
    save(api, "crossed", "echo the other change")
    pages.type("params.command", "echo mine")
    pages.press(".form .primary")
    pages.check(is_refused=True)
    assert "Somebody saved this task in the meantime" in pages.text(".faults")
    assert pages.one('[name="params.command"]').get_attribute("value") == "echo mine"
    pages.press(".form .primary")
    assert pages.path == "/tasks"
    assert api.get("/tasks/crossed").json()["params"] == {"command": "echo mine"}


def test_a_failed_form_keeps_what_was_typed_and_says_all_that_is_wrong(pages: Pages) -> None:
    pages.visit("/tasks/new")
    pages.type("name", "no good name")
    pages.type("params.command", "echo <b>kept</b>")
    pages.choose("schedules.0.kind", "cron")
    pages.type("schedules.0.cron", "61 * * * *")
    pages.one("details.card summary").click()
    pages.type("timeout", "soon")
    pages.type("env", "NOPE")
    pages.press(".form .primary")
    pages.check(is_refused=True)
    wrong = {field.get_attribute("name"): field for field in pages.all('[aria-invalid="true"]')}
    assert set(wrong) == {"name", "schedules.0.cron", "timeout", "env"}
    assert wrong["name"].get_attribute("value") == "no good name"
    assert wrong["timeout"].get_attribute("value") == "soon"
    assert pages.one('[name="params.command"]').get_attribute("value") == "echo <b>kept</b>"
    for field in wrong.values():
        fault = pages.one(f"#{field.get_attribute('id')}-faults")
        assert fault.get_attribute("id") in (field.get_attribute("aria-describedby") or "").split()
        assert fault.is_displayed()
    assert len(pages.all(".faults li")) == 4
    assert pages.driver.switch_to.active_element == wrong["name"]


def test_a_log_grows_line_by_line_while_the_run_runs(pages: Pages, tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    pages.visit("/runs/new")
    pages.type("params.command", f"i=0; while [ ! -e {stop} ]; do i=$((i+1)); echo line $i; sleep 0.1; done")
    pages.press(".form .primary")
    seen: list[int] = []
    while len(seen) < 4:
        least = seen[-1] if seen else 0
        seen.append(pages.until(lambda least=least: lines(pages) > least and lines(pages), "more lines"))  # type: ignore[misc]
        assert chip(pages) == "running"
    assert seen[0] < 15, "the first lines come before most are written"
    stop.touch()
    pages.until(lambda: pages.one("#live").get_attribute("hidden"), "nothing more will come")
    assert chip(pages) == "succeeded"
    assert pages.driver.title.startswith("succeeded · ")
    texts = [line.text for line in pages.all("#log .line > span")]
    assert texts == [f"line {number}" for number in range(1, len(texts) + 1)], "no line twice, none missing"


def test_cancel_leaves_no_process(pages: Pages) -> None:
    seconds = f"{1000 + os.getpid()}.25"
    pages.visit("/runs/new")
    pages.type("params.command", f"sh -c 'sleep {seconds} & setsid sleep {seconds} & wait'")
    pages.press(".form .primary")
    eventually(lambda: len(processes(seconds)) >= 2, "both sleepers run")
    pages.until(lambda: pages.one("#cancel").is_enabled())
    pages.press("#cancel")
    eventually(lambda: not processes(f"sleep {seconds}"), "every process is gone", within_s=3)
    pages.until(lambda: chip(pages) == "cancelled")


def processes(argument: str) -> list[str]:
    """The command lines that contain `argument`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if re.search(rf"(^| |/){re.escape(argument)}( |$)", command):
            found.append(command)
    return found


def test_output_is_text_whatever_it_says(pages: Pages, api: httpx2.Client) -> None:
    evil = '<script>window.hacked=1</script><img src=x onerror="window.hacked=1"><b hx-get="/logout" hx-trigger="load">'
    run = submit(api, f"cat <<'END'\n{evil}\n\033[31mred\033[0m\nEND\nsleep 0.5; cat <<'END'\n{evil}\nEND")
    pages.visit(f"/runs/{run}")
    pages.until(lambda: chip(pages) == "succeeded")
    pages.until(lambda: lines(pages) == 3)
    assert pages.text("#L1 > span") == pages.text("#L3 > span") == evil
    assert pages.text("#L2 .a-c1") == "red"
    assert pages.driver.execute_script("return window.hacked") is None


def test_a_list_updates_its_rows_and_announces_new_runs(pages: Pages, api: httpx2.Client, tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    shown = submit(api, f"while [ ! -e {stop} ]; do sleep 0.05; done")
    pages.visit("/runs")
    pages.until(lambda: pages.text(f"#run-{shown} .chip") == "running")
    pages.until(lambda: pages.text("#live") == "live")
    fresh = submit(api, "true")
    pages.until(lambda: pages.text("#fresh") == "1 new run – show")
    assert not pages.all(f"#run-{fresh}"), "no row moves under the pointer"
    stop.touch()
    pages.until(lambda: pages.text(f"#run-{shown} .chip") == "succeeded")
    pages.press("#fresh a")
    assert pages.all(f"#run-{fresh}")


def test_the_overview_counts_live(pages: Pages, api: httpx2.Client, tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    before = int(pages.text(".tiles .running .count"))
    submit(api, f"while [ ! -e {stop} ]; do sleep 0.05; done")
    pages.until(lambda: int(pages.text(".tiles .running .count")) == before + 1)
    stop.touch()
    pages.until(lambda: int(pages.text(".tiles .running .count")) == before)


def test_a_long_log_shows_its_end_and_leads_to_the_rest(pages: Pages, api: httpx2.Client) -> None:
    run = submit(api, "seq 1 5200")
    pages.visit(f"/runs/{run}")
    pages.until(lambda: chip(pages) == "succeeded")
    pages.visit(f"/runs/{run}/log")
    assert lines(pages) == 2000
    assert pages.text(".log-note").startswith("3200 earlier lines")
    pages.until(lambda: pages.one("#L5200").is_displayed() and in_view(pages, "#L5200"), "it begins at its end")
    pages.press(".log-note a")
    assert pages.text("#log .line > span") == "1201"
    pages.visit(f"/runs/{run}/log?lines=all#L17")
    assert lines(pages) == 5200
    pages.until(lambda: in_view(pages, "#L17"), "the line of the address is in view")


def in_view(pages: Pages, selector: str) -> bool:
    """Whether the element is inside of what the log shows of itself."""
    script = """const line = document.querySelector(arguments[0]).getBoundingClientRect()
        const view = document.querySelector('#log-view').getBoundingClientRect()
        return line.top >= view.top - 1 && line.bottom <= view.bottom + 1"""
    return bool(pages.driver.execute_script(script, selector))


def test_the_theme_is_kept_and_rendered_by_the_server(pages: Pages) -> None:
    for theme, colour in (("dark", "rgb(14, 16, 20)"), ("light", "rgb(247, 248, 250)")):
        pages.press(f'button[value="{theme}"]')
        assert pages.one("html").get_attribute("data-theme") == theme
        assert pages.path == "/"
        pages.visit("/tasks")
        assert f"rgb({rgb(pages)})" == colour
        pages.visit("/")
    pages.press('button[value="system"]')


def rgb(pages: Pages) -> str:
    """The background, as red, green, blue."""
    return ", ".join(re.findall(r"\d+", pages.one("body").value_of_css_property("background-color"))[:3])


def test_deleting_a_task_asks_first(pages: Pages, api: httpx2.Client) -> None:
    save(api, "going")
    pages.visit("/tasks/going")
    pages.press('a[href$="/delete"]')
    assert "Delete going?" in pages.text("h1")
    assert api.get("/tasks/going").status_code == 200
    pages.press("button.danger")
    assert pages.path == "/tasks"
    assert api.get("/tasks/going").status_code == 404


def test_a_list_without_a_match_offers_to_clear_the_filters(pages: Pages, api: httpx2.Client) -> None:
    submit(api, "true")
    pages.visit("/runs?state=skipped&task=nobody")
    assert pages.text(".empty h2") == "No run matches"
    pages.press(".empty a.button")
    assert pages.path == "/runs"
    pages.visit("/nowhere", is_refused=True)
    assert "Nothing here" in pages.text("h1")


def test_a_phone_never_scrolls_sideways(pages: Pages, api: httpx2.Client) -> None:
    save(api, "phone")
    save(api, "x" * 100, "echo " + "y" * 300)
    run = submit(api, "echo " + "z" * 5000)
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    pages.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        for path in (
            *EVERY_PAGE,
            f"/tasks/{'x' * 100}",
            f"/tasks/{'x' * 100}/backfill",
            f"/runs/{run}",
            f"/runs/{run}/log",
        ):
            pages.visit(path)
            wide = pages.driver.execute_script("return document.documentElement.scrollWidth")
            assert wide <= 390, f"{path} is {wide} px wide"
    finally:
        pages.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_cron_expression_is_explained_without_javascript(plain: Pages) -> None:
    plain.visit("/schedules")
    plain.type("cron", "30 2 * * *")
    plain.type("timezone", "Nowhere")
    plain.press(".try button")
    assert "There is no time zone 'Nowhere'" in plain.text("#look")
    plain.visit(TRIED)
    assert "02:30 does not exist that day: runs 03:00" in plain.text("#look li")


def test_everything_works_without_javascript(plain: Pages) -> None:
    plain.visit("/tasks/new")
    plain.type("name", "plain")
    plain.type("params.command", "for i in 1 2 3; do echo line $i; done")
    plain.one('[name="schedules.0.kind"][value="every"] + span').click()
    plain.type("schedules.0.every", "1h")
    plain.press(".form .primary")
    assert plain.text(".notice") == "Task plain is created."
    plain.press("#task-plain button")
    plain.until(lambda: chip(plain) == "succeeded", "the page reloads itself")
    assert [line.text for line in plain.all("#log .line > span")] == ["line 1", "line 2", "line 3"]
    plain.press("#again")
    plain.until(lambda: chip(plain) == "succeeded" and lines(plain) == 3)
