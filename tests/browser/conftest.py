"""A browser on a server, signed in; with JavaScript and without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import Pages, found
from harness import Server


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all pages."""
    found("chromedriver")
    server = Server(tmp_path_factory.mktemp("site") / "data", "--workers", "4", environment={"TASKMAN_TIMEZONE": "UTC"})
    yield server.start()
    if server.process is not None:
        server.kill_tree()


@pytest.fixture(scope="module")
def chromium(site: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """A browser that the printed link has signed in."""
    pages = Pages(site, tmp_path_factory.mktemp("profile"))
    pages.driver.get(site.link)
    yield pages
    pages.driver.quit()


@pytest.fixture
def pages(chromium: Pages) -> Iterator[Pages]:
    """The signed-in browser, on the overview, as wide as a desk."""
    chromium.driver.set_window_size(1280, 900)
    chromium.visit("/")
    yield chromium
    chromium.check()


@pytest.fixture
def plain(chromium: Pages, site: Server, tmp_path: Path) -> Iterator[Pages]:
    """A browser without JavaScript, in the same session."""
    session = chromium.driver.get_cookie("taskman_session")
    assert session is not None
    pages = Pages(site, tmp_path / "plain", javascript=False)
    pages.visit("/login")
    pages.driver.add_cookie({"name": session["name"], "value": session["value"]})
    yield pages
    pages.check()
    pages.driver.quit()
