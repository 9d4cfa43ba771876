"""What is installed is complete: packages are listed by hand, templates and scripts are data."""

from __future__ import annotations

import configparser
import importlib
from importlib.metadata import entry_points, version
from importlib.resources import files
from pathlib import Path

import pytest

import taskman

ROOT = Path(__file__).parent.parent


def test_setup_cfg_lists_every_package() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    ours = {".".join(found.parent.relative_to(ROOT).parts) for found in (ROOT / "taskman").rglob("__init__.py")}
    plugins = {found.parent.name for found in (ROOT / "plugins").glob("taskman_*/__init__.py")}
    assert listed == ours | plugins | {"taskman.templates"}


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("taskman.templates", "base.html"),
        ("taskman.templates", "runs/show.html"),
        ("taskman.store", "lua/claim.lua"),
        ("taskman.scaffold", "template/pyproject.toml.in"),
        ("taskman.scaffold", "template/.gitignore.in"),
        ("taskman.scaffold", "template/@module@/templates/@name@/page.html.in"),
        ("taskman.web", "static/app.css"),
        ("taskman.web", "static/vendor/htmx.min.js"),
        ("taskman", "py.typed"),
    ],
)
def test_data_files_are_installed(package: str, name: str) -> None:
    assert files(package).joinpath(*name.split("/")).is_file()


def test_every_template_of_the_tree_is_installed() -> None:
    tree = {path.relative_to(ROOT / "templates") for path in (ROOT / "templates").rglob("*.html")}
    base = Path(str(files("taskman.templates")))
    assert tree == {path.relative_to(base) for path in base.rglob("*.html")}


def test_the_version_is_the_packages() -> None:
    assert version("taskman-runner") == taskman.__version__


@pytest.mark.parametrize("name", ["http", "shell"])
def test_our_types_are_found_as_a_strangers_would_be(name: str) -> None:
    assert name in {entry.name for entry in entry_points(group="taskman")}


@pytest.mark.parametrize("name", taskman.__all__)
def test_every_exported_name_exists(name: str) -> None:
    assert getattr(taskman, name) is not None


def test_every_modules_all_is_true() -> None:
    package = Path(taskman.__file__).parent
    for path in package.rglob("*.py"):
        if path.name == "__main__.py":
            continue
        dotted = ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        module = importlib.import_module(dotted)
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), f"{dotted}.{name}"
