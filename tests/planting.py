"""Plugins for tests: real distributions, as pip leaves them, in a directory that goes on the path."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import invalidate_caches
from pathlib import Path
from textwrap import dedent

EXAMPLE = Path(__file__).parents[1] / "plugins" / "example-taskman-hello"
HEAD = """
from pydantic import BaseModel
from taskman import TaskContext, TaskType, hookimpl
"""

GREET = """
class Greet(TaskType):
    name = "greet"
    class Params(BaseModel):
        who: str = "world"
    async def run(self, context, params):
        return {"greeted": params.who}

@hookimpl
def taskman_task_types():
    return [Greet()]
"""


def plant(directory: Path, name: str, source: str, *, entry: str | None = None, version: str = "1.0") -> None:
    """Install a distribution `name` with one module of that name and one entry point."""
    module = name.replace("-", "_")
    directory.mkdir(exist_ok=True)
    (directory / f"{module}.py").write_text(dedent(source))
    info = directory / f"{module}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[taskman]\n{entry or f'{name} = {module}'}\n")
    invalidate_caches()


def pip_install_example(directory: Path) -> Path:
    """Install the example plugin below `directory`, by pip and without a network; where it is importable from."""
    source, place = shutil.copytree(EXAMPLE, directory / "source"), directory / "site"
    options = ["--no-index", "--no-build-isolation", "--no-deps", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(place), str(source)]
    subprocess.run(command, check=True, timeout=100, capture_output=True)
    return place


@contextmanager
def importable(directory: Path) -> Iterator[None]:
    """What is planted there can be imported, and is forgotten afterwards."""
    known = set(sys.modules)
    sys.path.insert(0, str(directory))
    try:
        yield
    finally:
        sys.path.remove(str(directory))
        for name in set(sys.modules) - known:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(directory)):
                del sys.modules[name]
