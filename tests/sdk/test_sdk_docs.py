"""The examples of docs/sdk.md do what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness import Server

from taskman import errors

TEXT = (Path(__file__).parent.parent.parent / "docs" / "sdk.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_prints_what_it_says(example: str, server: Server) -> None:
    promised = [
        part for line in re.findall(r"^ *print\(.*?\)  # (.*)$", example, re.MULTILINE) for part in line.split(" # ")
    ]
    assert promised
    done = subprocess.run(
        [sys.executable, "-c", example], env=server.environment, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == promised


def test_every_exception_of_the_table_is_one() -> None:
    for name in re.findall(r"^\| `(\w+)` \| ", TEXT, re.MULTILINE):
        assert issubclass(getattr(errors, name), errors.TaskmanError)
