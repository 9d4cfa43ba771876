"""Imports point one way only. A module may import from its own layer and from the layers listed for it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import taskman

ROOT = Path(taskman.__file__).parent
ALLOWED: dict[str, set[str]] = {
    "model": {"errors"},
    "store": {"errors", "model"},
    "runtime": {"errors", "model", "store", "plugins", "tasktypes", "trust"},
    "web": {"errors", "config", "garbage", "model", "store", "plugins", "tasktypes"},
    "cli": {
        "errors",
        "config",
        "answers",
        "client",
        "place",
        "transport",
        "model",
        "server",
        "node",
        "plugins",
        "scaffold",
    },
}
OWNERS = {  # those that may use a library
    "redis": "store",
    "hiredis": "store",
    "quart": "web",
    "quart_trio": "web",
    "hypercorn": "web",
    "wsproto": "web",
    "msgspec": "model runtime store",
    "trio_websocket": "runtime",
}
MODULES = sorted(ROOT.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """The absolute names of everything that a module imports, wherever in it."""
    package = ["taskman", *path.relative_to(ROOT).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            stem = ".".join(filter(None, (base, node.module)))
            found |= {f"{stem}.{alias.name}" for alias in node.names} if node.level and not node.module else {stem}
    return found


def layer(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


@pytest.mark.parametrize("path", [path for path in MODULES if layer(path) in ALLOWED], ids=str)
def test_a_module_imports_only_from_the_layers_below(path: Path) -> None:
    own = layer(path)
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("taskman.")}
    assert ours - {own, "__version__"} <= ALLOWED[own]


@pytest.mark.parametrize("path", sorted((ROOT / "runtime" / "shim").glob("*.py")), ids=str)
def test_the_shim_needs_the_standard_library_only(path: Path) -> None:
    """It is started alone and isolated, so it would find nothing else."""
    foreign = {name for name in imports(path) if not name.startswith(("taskman.runtime.shim", "shim."))}
    assert {name.split(".")[0] for name in foreign} <= sys.stdlib_module_names


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_each_foreign_library_is_known_to_its_layers_only(path: Path) -> None:
    for name in imports(path):
        owners = OWNERS.get(name.split(".")[0])
        assert owners is None or layer(path) in owners.split(), f"{name} belongs to {owners}"


def test_no_module_imports_inside_a_function_but_for_the_command_line() -> None:
    for path in MODULES:
        if layer(path) in ("cli", "client", "transport"):  # it must start quickly
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                inner = [node for node in ast.walk(function) if isinstance(node, (ast.Import, ast.ImportFrom))]
                assert not inner, f"{path}: {function.name}"


@pytest.mark.parametrize("plugin", ["taskman_http", "taskman_python", "taskman_shell"])
def test_plugins_use_only_what_a_stranger_can(plugin: str) -> None:
    module = __import__(plugin)
    for path in Path(module.__file__ or "").parent.rglob("*.py"):
        for name in imports_of_plugin(path):
            assert name == "taskman" or not name.startswith("taskman."), f"{path}: {name}"


def imports_of_plugin(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
