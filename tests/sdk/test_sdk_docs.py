"""The examples of docs/sdk.md do what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Server

from taskman import errors

TEXT = (Path(__file__).parent.parent.parent / "docs" / "sdk.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all examples."""
    server = Server(tmp_path_factory.mktemp("docs") / "data")
    yield server.start()
    if server.process is not None:
        server.kill_tree()


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_prints_what_it_says(example: str, site: Server) -> None:
    promised = [
        part for line in re.findall(r"^ *print\(.*?\)  # (.*)$", example, re.MULTILINE) for part in line.split(" # ")
    ]
    assert promised
    done = subprocess.run(
        [sys.executable, "-c", example], env=site.environment, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == promised


def test_every_exception_of_the_table_is_one() -> None:
    for name in re.findall(r"^\| `(\w+)` \| ", TEXT, re.MULTILINE):
        assert issubclass(getattr(errors, name), errors.TaskmanError)
