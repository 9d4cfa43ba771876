"""`@task` and `current()`."""

from __future__ import annotations

import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

import taskman
from taskman import current, task, use_context
from taskman.callables import name_of
from taskman.errors import ConfigError, InvalidInput


def test_a_marked_function_is_called_as_ever() -> None:
    def plain(x: int) -> int:
        return x + 1

    marked = task(timeout="5m")(plain)
    assert marked is plain
    assert marked(1) == 2


def test_options_are_given_by_name() -> None:
    with pytest.raises(TypeError, match="options are given by name"):
        task(5)  # type: ignore[call-overload]  # the mistake


def test_task_belongs_below_staticmethod() -> None:
    with pytest.raises(TypeError, match="write @task below @staticmethod"):
        task(staticmethod(print))


def test_what_no_worker_could_import_is_refused_at_submit(monkeypatch: pytest.MonkeyPatch) -> None:
    @task
    def local() -> None: ...

    with pytest.raises(InvalidInput, match="inside a function: move it to the top"):
        local.submit()
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    local.__module__ = "__main__"  # type: ignore[attr-defined]  # it is a function
    with pytest.raises(ConfigError, match="move it into a module"):
        local.submit()


def test_a_module_that_was_started_with_m_has_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name="myapp.tasks"))
    assert name_of(SimpleNamespace(__module__="__main__", __qualname__="send")) == "myapp.tasks:send"


def test_there_is_no_current_run_outside_of_one() -> None:
    with pytest.raises(RuntimeError, match="there is no run here"):
        current()


def test_the_context_in_use_is_the_current_one_and_other_threads_see_it_only_on_request() -> None:
    seen: list[object] = []

    def look() -> None:
        try:
            seen.append(current())
        except RuntimeError:
            seen.append(None)

    for everywhere in (False, True):
        with use_context("here", everywhere=everywhere):
            assert current() == "here"
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
    assert seen == [None, "here"]


def test_marking_a_function_loads_nothing_heavy() -> None:
    code = "import sys; from taskman import task, current, Fatal; print(*{'pydantic', 'trio'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_the_names_are_those_of_the_package() -> None:
    assert {"task", "current", "use_context", "Submittable"} <= set(taskman.__all__)
