"""A page that is open while servers die and come back: it moves on by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import Pages
from topology.following import run_of
from topology.site import ENDS, End, Site

pytestmark = pytest.mark.browser


@pytest.fixture
def pages(site: Site, tmp_path: Path) -> Iterator[Pages]:
    """A browser that has signed in with the administrator's token, through the balancer."""
    pages = Pages(site, tmp_path / "profile")
    pages.visit("/login")
    pages.type("token", site.admin_token)
    pages.press("form .primary")
    yield pages
    pages.driver.quit()


@pytest.mark.parametrize("end", ENDS)
def test_the_page_of_a_run_goes_on_when_its_server_ends(pages: Pages, site: Site, tmp_path: Path, end: End) -> None:
    stop = tmp_path / "stop"
    node, carrier = site.servers
    assert node.stop() == 0
    command = f"i=0; while [ ! -e {stop} ]; do i=$((i+1)); echo line $i; sleep 0.05; done"
    run = run_of(site, command, requires={"node": node.label})
    pages.visit(f"/runs/{run}")  # whose streams can only come from the one server that is left
    pages.until(lambda: _is_live(pages), "the page is live")
    node.start()
    pages.until(lambda: _lines(pages) >= 5, "the run begins and the log flows")
    end(carrier)
    seen = _lines(pages)
    pages.until(lambda: _lines(pages) > seen + 20, "the log goes on, from the other server")
    pages.until(lambda: _is_live(pages), "the page is live again")
    stop.touch()
    pages.until(lambda: pages.text("h1 .chip") == "succeeded", "and shows the end")
    numbers = [line.text for line in pages.all("#log .line > span")]
    assert numbers == [f"line {number}" for number in range(1, len(numbers) + 1)]


def _lines(pages: Pages) -> int:
    return len(pages.all("#log .line"))


def _is_live(pages: Pages) -> bool:
    return pages.one("#live").get_attribute("data-live") == "on"
