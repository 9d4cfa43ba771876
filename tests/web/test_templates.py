"""Templates keep the content security policy by construction, and stay short."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(str(files("taskman.templates")))
TEMPLATES = sorted(ROOT.rglob("*.html"))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(ROOT)))
class TestTemplate:
    def test_has_nothing_inline(self, path: Path) -> None:
        text = path.read_text()
        assert not re.search(r"\sstyle\s*=", text), "write a class"
        assert not re.search(r"<style", text), "write it into app.css"
        assert not re.search(r"\son\w+\s*=", text), "write it into taskman.js"
        assert not re.search(r"hx-on|hx-vals=.js:|hx-trigger=\"[^\"]*\[", text), "htmx would evaluate it"
        assert not re.search(r"<script(?![^>]*\ssrc=)[^>]*>|<script[^>]*>\s*[^<\s]", text), "write a file"
        assert not re.search(r"javascript:", text)

    def test_escapes_everything(self, path: Path) -> None:
        assert not re.search(r"\|\s*safe\b|autoescape|Markup", path.read_text())

    def test_has_at_most_sixty_lines(self, path: Path) -> None:
        assert len(path.read_text().splitlines()) <= 60

    def test_has_no_logic_beyond_if_and_for(self, path: Path) -> None:
        known = {"if", "elif", "else", "endif", "for", "endfor", "with", "endwith", "include", "from", "extends"}
        words = set(re.findall(r"{%-?\s*(\w+)", path.read_text()))
        assert words <= known | {"block", "endblock", "macro", "endmacro"}


def test_finds_the_templates() -> None:
    assert len(TEMPLATES) > 20
