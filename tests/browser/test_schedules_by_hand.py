"""Pause, skip and backfill on the page of a task, in a real browser: live, by keyboard, without JavaScript."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest
from browsing import Pages
from harness import Server
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

pytestmark = pytest.mark.browser

HOURLY = {"every": "1h", "anchor": "2026-01-01T00:00:00Z"}
DAILY = {"cron": "30 2 * * *"}


@pytest.fixture
def api(site: Server) -> Iterator[httpx2.Client]:
    """The API of the same server."""
    with site.client() as client:
        yield client


def save(api: httpx2.Client, name: str, *schedules: dict[str, str]) -> None:
    """A task of that name."""
    body = {"type": "shell", "params": {"command": "true"}, "schedules": schedules}
    assert api.put(f"/tasks/{name}", json=body).status_code == 201


def set_moment(pages: Pages, name: str, value: str) -> None:
    """Fill in a date and a time, which is typed differently in each country."""
    field = pages.one(f'[name="{name}"]')
    pages.driver.execute_script("arguments[0].value = arguments[1]", field, value)


def test_a_pause_elsewhere_shows_here_and_its_button_works(pages: Pages, api: httpx2.Client) -> None:
    save(api, "shared", DAILY)
    pages.visit("/tasks/shared")
    pages.until(lambda: pages.text("#live") == "live")
    assert pages.text("h1") == "shared"
    api.post("/tasks/shared/pause")
    pages.until(lambda: pages.text("#paused strong") == "Its schedules are paused.", "it is said without a reload")
    assert pages.text("h1").split() == ["paused", "shared"]
    assert not pages.all("#pause")
    pages.press("#resume")
    assert pages.text(".notice").startswith("It goes on. It is due next ")
    assert pages.text(".notice").endswith(", 02:30 UTC.")
    assert not pages.all("#paused")
    assert api.get("/tasks/shared").json()["enabled"] is True


def test_the_button_of_a_schedule_skips_the_instant_that_it_names(pages: Pages, api: httpx2.Client) -> None:
    save(api, "skipped", HOURLY, DAILY)
    pages.visit("/tasks/skipped")
    button = pages.all("form[action$='/skip'] button")[1]
    named = button.accessible_name.removeprefix("Skip next ")
    assert named.endswith(", 02:30")
    assert pages.all(".schedule")[1].find_element("css selector", ".fires span").text == named
    button.send_keys(Keys.ENTER)
    pages.until(lambda: pages.text(".notice").startswith(f"Skipped {named} UTC. The next one is "))
    assert named not in pages.all(".schedule")[1].find_element("css selector", ".fires").text
    assert len(pages.all(".ledger .skipped")) == 1


def test_a_backfill_is_counted_looked_at_and_made(pages: Pages, api: httpx2.Client) -> None:
    save(api, "filled", HOURLY, DAILY)
    pages.visit("/tasks/filled")
    pages.press("#backfill")
    set_moment(pages, "from", "2026-02-01T00:00")
    set_moment(pages, "to", "2026-02-03T00:00")
    Select(pages.one("[name=schedule]")).select_by_visible_text("30 2 * * * UTC")
    pages.press(".form .primary")
    assert pages.driver.switch_to.active_element == pages.one("#counted"), "what was counted has the focus"
    assert pages.one("#counted").accessible_name == pages.text("#counted h2") == "2 runs to make"
    assert Select(pages.one("[name=schedule]")).first_selected_option.text == "30 2 * * * UTC"
    pages.press("#counted .primary")
    assert pages.path == "/tasks/filled"
    assert pages.text(".notice") == "2 runs made."
    pages.until(lambda: len(pages.all(".list.runs .succeeded")) >= 2, "they run")  # and one more on the hour


def test_a_wrong_time_is_told_at_its_field_which_has_the_focus(pages: Pages, api: httpx2.Client) -> None:
    save(api, "wrong", DAILY)
    pages.visit("/tasks/wrong/backfill")
    set_moment(pages, "to", "2999-01-01T00:00")
    pages.press(".form .primary")
    pages.check(is_refused=True)
    field = pages.one("[name=to]")
    assert (field.get_attribute("aria-invalid"), field.get_attribute("value")) == ("true", "2999-01-01T00:00")
    assert "to-faults" in (field.get_attribute("aria-describedby") or "").split()
    assert "lies in the future" in pages.text("#to-faults")
    assert pages.driver.switch_to.active_element == field


def test_all_of_it_works_without_javascript(plain: Pages, api: httpx2.Client) -> None:
    save(api, "simple", DAILY)
    plain.visit("/tasks/simple")
    plain.press("form[action$='/skip'] button")
    assert plain.text(".notice").startswith("Skipped ")
    plain.press("#pause")
    assert "paused" in plain.text("h1")
    assert not plain.all("form[action$='/skip']"), "nothing is due that could be skipped"
    plain.press("#backfill")
    plain.press(".form .primary")
    count = int(plain.text("#counted h2").split()[0])
    assert count in (1, 2), "from the beginning of yesterday until now"
    plain.press("#counted .primary")
    assert plain.text(".notice") == f"{count} run{'s' * (count > 1)} made."
    plain.press("#resume")
    assert plain.text(".notice").startswith("It goes on.")
