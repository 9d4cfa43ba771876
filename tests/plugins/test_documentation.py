"""docs/plugins.md shows code that runs elsewhere, and leaves nothing out that a plugin author can use."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from textwrap import dedent

import pytest

import taskman
from taskman import TaskContext
from taskman.testing import Options, Outcome
from taskman.vetting import HOOKS

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs" / "plugins.md").read_text()
BLOCKS = re.findall(r"(?:<!-- (\S+) -->\n)?```(\w+)\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize(("source", "language", "code"), [one for one in BLOCKS if one[1] != "console"])
def test_the_code_shown_is_code_that_runs(source: str, language: str, code: str) -> None:
    assert source, f"say where this is from:\n{code}"
    assert code.strip() in (ROOT / source).read_text(), f"{source} has changed: show what it is now"


def test_there_is_code_to_look_at() -> None:
    assert len([one for one in BLOCKS if one[1] == "python"]) >= len(HOOKS) + 4


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_its_section_with_an_example(hook: str) -> None:
    section = TEXT.partition(f"### {hook}\n")[2].partition("\n##")[0]
    assert f"def {hook}(" in section
    example = (ROOT / "plugins" / "example-taskman-hello" / "taskman_hello" / "__init__.py").read_text()
    assert f"@hookimpl\ndef {hook}(" in example


def test_every_member_of_the_context_is_documented() -> None:
    table = TEXT.partition("### The context")[2].partition("\n##")[0]
    members = {*TaskContext.__annotations__, *TaskContext.__abstractmethods__}
    documented = set(re.findall(r"`(?:await )?(\w+)", table))
    assert members <= documented, members - documented


def test_the_interface_for_tests_is_documented() -> None:
    section = TEXT.partition("## Testing")[2].partition("\n## ")[0]
    for name in [*(one.name for one in fields(Outcome)), *Options.__annotations__]:
        assert f"`{name}`" in section, name


def test_every_name_for_plugin_authors_is_mentioned() -> None:
    for name in ("Fatal", "RetryAfter", "TaskFailed", "TaskType", "TaskmanError", "ProcessResult", "hookimpl"):
        assert name in taskman.__all__
        assert name in TEXT


def test_the_commands_of_the_tutorial_exist() -> None:
    console = "".join(code for _, language, code in BLOCKS if language == "console")
    assert {"taskman plugins new hello", "taskman plugins list", "taskman up"} <= set(
        re.findall(r"^\$ (taskman(?: [a-z]+){1,3})", dedent(console), re.MULTILINE)
    )
