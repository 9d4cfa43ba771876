"""The registry: what plugins add, and every way in which one can be broken without breaking anything else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from planting import GREET, HEAD, importable, plant

from taskman.errors import InvalidInput
from taskman.plugins import discover


class Broken(NamedTuple):
    """A plugin, and what is said of it."""

    source: str
    complaint: str


TYPE = "class T(TaskType):\n    name = 'odd'\n    class Params(BaseModel): pass\n    async def run(self, c, p): pass\n"
HOOK = "@hookimpl\ndef taskman_task_types():\n    "

BROKEN = {
    "syntax": Broken("def (:\n", "raised SyntaxError"),
    "import": Broken("import nowhere_to_be_found", "raised ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
    "raises at import": Broken("x = 1\n1 / 0", "raised ZeroDivisionError: division by zero (odd.py, line 2)"),
    "exits at import": Broken("import sys; sys.exit(3)", "the import of odd ended with sys.exit(3)"),
    "worse at import": Broken("raise BaseException('out')", "BaseException: out"),
    "no hook": Broken("x = 1", "implements no hook: define taskman_nav_items"),
    "not marked": Broken("def taskman_task_types(): return []", "put @taskman.hookimpl above it"),
    "misspelt": Broken(
        HEAD + "@hookimpl\ndef taskman_task_type(): return []",
        "there is no hook 'taskman_task_type'; did you mean 'taskman_task_types'?",
    ),
    "unknown argument": Broken(
        HEAD + "@hookimpl\ndef taskman_run_finished(runs): pass",
        "taskman_run_finished takes run, not 'runs'; did you mean 'run'?",
    ),
    "argument to none": Broken(HEAD + "@hookimpl\ndef taskman_nav_items(app): return []", "takes no arguments"),
    "async hook": Broken(HEAD + "@hookimpl\nasync def taskman_task_types(): return []", "hooks are synchronous"),
    "wrapper": Broken(
        HEAD + "@hookimpl(wrapper=True)\ndef taskman_task_types():\n    return (yield)", "for its own plugin only"
    ),
    "hook raises": Broken(HEAD + HOOK + "raise KeyError('x')", "taskman_task_types raised KeyError: 'x' (odd.py, line"),
    "hook exits": Broken(HEAD + HOOK + "raise SystemExit(1)", "taskman_task_types raised SystemExit: 1"),
    "nothing": Broken(HEAD + HOOK + "pass", "returned nothing: return a list, such as [Greet()]"),
    "no list": Broken(HEAD + TYPE + HOOK + "return T()", "return a list, such as [Greet()]"),
    "a text": Broken(HEAD + HOOK + "return 'greet'", "returned 'greet': return a list"),
    "a generator": Broken(HEAD + TYPE + HOOK + "yield T()", "return a list, such as [Greet()]"),
    "no task type": Broken(HEAD + HOOK + "return [1]", "returned 1: return instances of taskman.TaskType"),
    "a class": Broken(HEAD + TYPE + HOOK + "return [T]", "returned the class T: return an instance, T()"),
    "abstract": Broken(
        HEAD + "class T(TaskType):\n    name = 'odd'\n    class Params(BaseModel): pass\n" + HOOK + "return [T()]",
        "raised TypeError: Can't instantiate abstract class T",
    ),
    "no name": Broken(HEAD + TYPE.replace("name =", "nom =") + HOOK + "return [T()]", "has no name: set name"),
    "bad name": Broken(HEAD + TYPE.replace("'odd'", "'a|b'") + HOOK + "return [T()]", "cannot be called 'a|b'"),
    "empty name": Broken(HEAD + TYPE.replace("'odd'", "''") + HOOK + "return [T()]", "cannot be called ''"),
    "number as name": Broken(HEAD + TYPE.replace("'odd'", "7") + HOOK + "return [T()]", "cannot be called 7"),
    "number as version": Broken(
        HEAD + TYPE + "    version = 2\n" + HOOK + "return [T()]", "version of the task type 'odd' is 2: make it"
    ),
    "twice": Broken(HEAD + TYPE + HOOK + "return [T(), T()]", "two task types are called 'odd'"),
    "taken name": Broken(
        HEAD + TYPE.replace("'odd'", "'shell'") + HOOK + "return [T()]",
        "the task type 'shell' is that of the plugin 'shell': give it another name",
    ),
    "sync run": Broken(HEAD + TYPE.replace("async ", "") + HOOK + "return [T()]", "write async def run"),
    "no params": Broken(
        HEAD + TYPE.replace("class Params(BaseModel): pass", "x = 1") + HOOK + "return [T()]", "has no Params"
    ),
    "params no model": Broken(
        HEAD + TYPE.replace("(BaseModel)", "(dict)") + HOOK + "return [T()]", "make them a pydantic.BaseModel"
    ),
    "params a root model": Broken(
        HEAD + "from pydantic import RootModel\n" + TYPE.replace("(BaseModel)", "(RootModel[list[int]])")
        + HOOK + "return [T()]",
        "make them a pydantic.BaseModel",
    ),
    "params without schema": Broken(
        HEAD + "from collections.abc import Callable\n"
        + TYPE.replace("pass\n    async", "f: Callable[[], int]\n    async") + HOOK + "return [T()]",
        "have no JSON Schema: ",
    ),
    "no directory": Broken(
        HEAD + "@hookimpl\ndef taskman_template_dirs(): return ['/nowhere']", "which is no directory: see package_data"
    ),
    "bad navigation": Broken(HEAD + "@hookimpl\ndef taskman_nav_items(): return ['x']", "return pairs, such as"),
    "foreign navigation": Broken(
        HEAD + "@hookimpl\ndef taskman_nav_items(): return [('x', '//evil.example')]", "begins with one /"
    ),
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    with importable(tmp_path / "site"):
        yield tmp_path / "site"


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_named_with_its_remedy_and_harms_nobody(kind: str, place: Path) -> None:
    plant(place, "odd", BROKEN[kind].source)
    plant(place, "greet", HEAD + GREET)
    registry = discover()
    (about,) = registry.broken
    assert BROKEN[kind].complaint in (about.error or "")
    assert (about.name, about.distribution, about.version, about.task_types) == ("odd", "odd", "1.0", ())
    assert {"shell", "greet"} <= set(registry.task_types)
    assert "odd" not in registry.task_types
    assert not registry.implementations("taskman_run_finished")
    assert not registry.nav_items


def test_a_working_plugin_is_listed_with_its_types(place: Path) -> None:
    plant(place, "greet", HEAD + GREET, version="2.1")
    registry = discover()
    about = next(one for one in registry.plugins if one.name == "greet")
    assert (about.distribution, about.version, about.task_types, about.error) == ("greet", "2.1", ("greet",), None)
    assert registry.read_params("greet", {"who": "you"}).model_dump() == {"who": "you"}


def test_of_two_plugins_of_one_name_the_second_is_refused(place: Path) -> None:
    plant(place, "aaa", HEAD + GREET, entry="same = aaa")
    plant(place, "bbb", HEAD + GREET.replace('"greet"', '"other"'), entry="same = bbb")
    registry = discover()
    (about,) = registry.broken
    assert about.distribution == "bbb"
    assert "another plugin is called 'same' already" in (about.error or "")
    assert "greet" in registry.task_types
    assert "other" not in registry.task_types


def test_a_module_is_a_plugin_once(place: Path) -> None:
    plant(place, "aaa", HEAD + GREET)
    plant(place, "bbb", "", entry="bbb = aaa")
    assert "it is the plugin 'aaa' already" in (discover().broken[0].error or "")


def test_nobody_takes_the_name_of_one_of_ours(place: Path) -> None:
    plant(place, "aaa", HEAD + GREET, entry="shell = aaa")
    registry = discover()
    assert registry.broken[0].distribution == "aaa"
    assert "shell" in registry.task_types
    assert "greet" not in registry.task_types


def test_a_refused_plugin_adds_none_of_its_types(place: Path) -> None:
    both = GREET.replace("[Greet()]", "[Greet(), T()]")
    plant(place, "odd", HEAD + TYPE.replace("'odd'", "'shell'") + both)
    registry = discover()
    assert "greet" not in registry.task_types


def test_an_entry_point_that_is_none_is_explained(place: Path) -> None:
    plant(place, "odd", "", entry="odd = what is this")
    registry = discover()
    assert "write a module, or module:object" in (registry.broken[0].error or "")


def test_an_entry_point_may_name_an_object(place: Path) -> None:
    source = (
        HEAD
        + GREET.replace(
            "@hookimpl\ndef taskman_task_types():", "class P:\n  @hookimpl\n  def taskman_task_types(self):"
        ).replace("    return [Greet", "      return [Greet")
        + "plugin = P()\n"
    )
    plant(place, "greet", source, entry="greet = greet:plugin")
    registry = discover()
    assert not registry.broken
    assert "greet" in registry.task_types


def test_what_a_plugin_prints_does_not_get_into_our_output(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant(place, "greet", HEAD + GREET + "print('hello from the import')\n")
    registry = discover()
    out, err = capsys.readouterr()
    assert (out, err) == ("", "hello from the import\n")
    assert "greet" in registry.task_types


def test_metadata_that_cannot_be_read_spoils_only_its_own_plugin(place: Path) -> None:
    plant(place, "greet", HEAD + GREET)
    info = place / "odd-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[taskman]\nno equals sign here\n")
    registry = discover()
    assert {"shell", "greet"} <= set(registry.task_types)
    (about,) = registry.broken
    assert (about.distribution, "entry_points.txt cannot be read" in (about.error or "")) == ("odd", True)


def test_a_default_that_is_no_json_is_no_reason_to_refuse(place: Path) -> None:
    source = (
        HEAD
        + "from datetime import timedelta\nfrom typing import Any\n"
        + GREET.replace('who: str = "world"', "x: Any = object()")
    )
    plant(place, "greet", source)
    assert not discover().broken


def test_a_check_that_fails_in_its_own_way_is_told_as_a_fault_of_the_params(place: Path) -> None:
    check = "\n        @__import__('pydantic').field_validator('who')\n        def check(cls, v): raise KeyError(v)"
    plant(place, "greet", HEAD + GREET.replace('who: str = "world"', 'who: str = "world"' + check))
    registry = discover()
    with pytest.raises(InvalidInput, match="the check of 'greet' failed: KeyError: 'you'"):
        registry.read_params("greet", {"who": "you"})


def test_a_hook_may_take_fewer_arguments_than_there_are(place: Path) -> None:
    source = HEAD + "called = []\n@hookimpl\ndef taskman_run_finished(): called.append(1)\n"
    plant(place, "odd", source)
    registry = discover()
    registry.implementations("taskman_run_finished")["odd"](run={})
    assert not registry.broken
