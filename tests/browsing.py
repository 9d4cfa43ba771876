"""A real Chromium, and what a person does with it; every page is checked for violations and errors."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Server
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

INSTALL = "Chromium and its driver are missing: apt-get install chromium chromium-driver"
QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)
NOTE_VIOLATIONS = """
    window.violations = []
    document.addEventListener('securitypolicyviolation', event => window.violations.push(
        `${event.violatedDirective}: ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`))
"""


class Pages:
    """What a person does with pages: visit, type, choose, press; and waiting for what they see."""

    def __init__(self, server: Server, profile: Path, *, javascript: bool = True) -> None:
        self.server, self.javascript = server, javascript
        self.driver = webdriver.Chrome(options=_options(profile, javascript), service=Service(found("chromedriver")))
        self.driver.set_page_load_timeout(30)
        if javascript:
            self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": NOTE_VIOLATIONS})

    def visit(self, path: str, *, is_refused: bool = False) -> None:
        """Open a page of the server; only one that is refused may have a 4xx status."""
        self.check()
        self.driver.get(self.server.url + path)
        self.check(is_refused=is_refused)

    def check(self, *, is_refused: bool = False) -> None:
        """Nothing since the last check has broken the policy or complained on the console."""
        if self.javascript:
            assert self.driver.execute_script("return window.violations ?? []") == []
        bad = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        refused = [message for message in bad if re.search(r"status of (404|409|422)", message)]
        assert [message for message in bad if message not in refused] == []
        assert len(refused) == is_refused, refused

    def one(self, selector: str) -> WebElement:
        """The first element; it must be there."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        """Every such element."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """What the first such element says."""
        return self.one(selector).text

    def type(self, name: str, text: str) -> None:
        """Write into the field of that name."""
        field = self.one(f'[name="{name}"]')
        field.clear()
        field.send_keys(text)

    def choose(self, name: str, value: str) -> None:
        """Choose one of several."""
        self.one(f'[name="{name}"][value="{value}"] + span').click()

    def press(self, selector: str) -> None:
        """Press a button or follow a link that leads to another page."""
        self.check()
        before = self.one("html")
        self.one(selector).click()
        self.until(lambda: _is_gone(before), f"{selector} leads on")
        if self.javascript:
            self.until(lambda: self.driver.execute_script("return document.readyState") == "complete")

    def until(self, seen: Callable[[], Any], what: str = "", within_s: float = 15) -> Any:
        """Wait until `seen` is true; the page may change under our hands meanwhile."""
        wait = WebDriverWait(self.driver, within_s, poll_frequency=0.05, ignored_exceptions=[WebDriverException])
        return wait.until(lambda _: seen(), what)

    @property
    def path(self) -> str:
        return self.driver.current_url.removeprefix(self.server.url)


def _is_gone(element: WebElement) -> bool:
    try:
        element.is_enabled()
    except WebDriverException:  # stale, or, in the moment between two pages, not of this document
        return True
    return False


def _options(profile: Path, javascript: bool) -> webdriver.ChromeOptions:
    options = webdriver.ChromeOptions()
    options.binary_location = found("chromium", "chromium-browser", "google-chrome")
    for flag in (*QUIET, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if not javascript:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    return options


def found(*names: str) -> str:
    """The path of the first of these programs; without one the test fails where it must not be skipped."""
    for name in names:
        if path := shutil.which(name):
            return path
    if os.environ.get("CI"):
        pytest.fail(INSTALL)
    pytest.skip(INSTALL)
