"""What a worker lets be called, and that it imports nothing else."""

from __future__ import annotations

import importlib
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskman_python.finding import Refused, find


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Write modules that can be imported; importing one leaves a trace in `sys.modules`."""
    monkeypatch.syspath_prepend(tmp_path)
    names: list[str] = []

    def write(path: str, source: str) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(source))
        names.append(path.partition("/")[0].removesuffix(".py"))

    yield write
    for name in [one for one in sys.modules if one.partition(".")[0] in names]:
        del sys.modules[name]


def test_a_marked_function_is_found_however_task_was_imported(write: Callable[[str, str], None]) -> None:
    write(
        "tm_marked.py",
        """
        import taskman
        import taskman as tm
        from taskman import task
        from taskman import task as marks

        @task
        def one(): ...
        @task(timeout="1m")
        def two(): ...
        @taskman.task
        async def three(): ...
        @tm.task()
        def four(): ...
        class Five:
            @staticmethod
            @marks
            def six(): ...
        """,
    )
    for path in ("one", "two", "three", "four", "Five.six"):
        assert callable(find(f"tm_marked:{path}", []))


def test_a_module_that_does_not_mark_the_function_is_not_even_imported(write: Callable[[str, str], None]) -> None:
    write("tm_pkg/__init__.py", "")
    write("tm_pkg/other.py", "from taskman import task\n@task\ndef good(): ...\ndef bad(): ...\n")
    for path in ("bad", "task", "good.submit", "nothing"):
        with pytest.raises(Refused, match="is not allowed on this worker"):
            find(f"tm_pkg.other:{path}", [])
    assert not {"tm_pkg", "tm_pkg.other"} & set(sys.modules)


def test_a_decorator_of_the_same_name_from_elsewhere_marks_nothing(write: Callable[[str, str], None]) -> None:
    write("tm_fake.py", "from functools import cache as task\n@task\ndef f(): ...\n")
    with pytest.raises(Refused, match="not allowed"):
        find("tm_fake:f", [])
    assert "tm_fake" not in sys.modules


def test_a_source_that_marks_is_believed_only_when_the_function_is_marked_in_fact(
    write: Callable[[str, str], None],
) -> None:
    write("tm_liar.py", "from taskman import task\n@task\ndef f(): ...\nimport os\nf = os.system\n")
    with pytest.raises(Refused, match="not allowed"):
        find("tm_liar:f", [])


def test_marked_functions_are_found_in_folders_without_init(write: Callable[[str, str], None]) -> None:
    write("tm_space/deep/tasks.py", "from taskman import task\n@task\ndef f(): ...\n")
    assert callable(find("tm_space.deep.tasks:f", []))


def test_a_pattern_opens_what_a_module_defines(write: Callable[[str, str], None]) -> None:
    write("tm_open.py", "def f(): ...\nclass A:\n    @staticmethod\n    def g(): ...\n")
    assert callable(find("tm_open:f", ["nothing:*", "tm_open:*"]))
    assert callable(find("tm_open:A.g", ["tm_open:*"]))


@pytest.mark.parametrize("path", ["os.system", "system", "f.__class__", "_private", "f.__globals__.get", "helper"])
def test_a_pattern_does_not_open_what_a_module_imports_or_hides(write: Callable[[str, str], None], path: str) -> None:
    write("tm_inner.py", "def helper(): ...\n")
    write(
        "tm_tight.py",
        "import os\nfrom os import system\nfrom tm_inner import helper\ndef f(): ...\ndef _private(): ...\n",
    )
    with pytest.raises(Refused):
        find(f"tm_tight:{path}", ["tm_tight:*"])


def test_a_name_without_wildcards_opens_just_that(write: Callable[[str, str], None]) -> None:
    write("tm_exact.py", "from os import getpid\ndef _private(): ...\n")
    assert callable(find("tm_exact:getpid", ["tm_exact:getpid"]))
    assert callable(find("tm_exact:_private", ["tm_exact:_private"]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tm_typos.tasks:sent", r"'tm_typos.tasks' has no 'sent'; did you mean 'send'\?"),
        ("tm_typos.tusks:send", r"there is no module 'tm_typos.tusks' in 'tm_typos'; did you mean 'tasks'\?"),
        ("tm_typo:send", r"there is no module 'tm_typo' on this worker; did you mean 'tm_typos'\?"),
        ("tm_typos.tasks:NUMBER", r"is no function: it is an int"),
        ("tm_typos.tasks.send:x", r"there is no module 'tm_typos.tasks.send' in 'tm_typos.tasks'"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(write: Callable[[str, str], None], name: str, message: str) -> None:
    write("tm_typos/__init__.py", "")
    write("tm_typos/tasks.py", "NUMBER = 1\ndef send(): ...\n")
    with pytest.raises(Refused, match=message):
        find(name, ["tm_*"])


def test_a_module_that_fails_to_import_fails_as_itself(write: Callable[[str, str], None]) -> None:
    write("tm_broken.py", "import no_such_module_at_all\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        find("tm_broken:f", ["tm_broken:*"])


def test_a_source_that_cannot_be_read_is_refused(write: Callable[[str, str], None]) -> None:
    write("tm_syntax.py", "def f(:\n")
    with pytest.raises(Refused, match="the source of 'tm_syntax' cannot be read"):
        find("tm_syntax:f", [])


def in_threads(number: int, call: Callable[[], object]) -> None:
    """Call it in so many threads at once, and wait for all."""
    threads = [threading.Thread(target=call) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_functions_can_be_looked_for_in_many_threads_at_once(
    write: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("tm_many.py", "from taskman import task\n\n\n@task\ndef hello():\n    pass\n")
    busy = threading.Lock()
    found: list[object] = []

    def invalidate() -> None:  # as CPython's: who comes while another is at it fails
        if not busy.acquire(blocking=False):
            raise KeyError("python311.zip")
        time.sleep(0.001)
        busy.release()

    monkeypatch.setattr(importlib, "invalidate_caches", invalidate)
    in_threads(8, lambda: found.append(find("tm_many:hello", [])))
    assert len(found) == 8


def test_their_sources_can_be_read_in_many_threads_at_once(write: Callable[[str, str], None]) -> None:
    write("tm_wide.py", "from taskman import task\n" + 50 * "\n\n@task\ndef hello():\n    return [1, {2: (3, 4)}]\n")
    failures: list[BaseException] = []

    def look() -> None:
        try:
            for _ in range(20):
                find("tm_wide:hello", [])
                cycle: list[object] = []
                cycle.append(Finalized(cycle))  # a collection amid the parsing runs it, and lets other threads run
        except BaseException as error:
            failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        in_threads(5, look)
    finally:
        sys.setswitchinterval(interval)
    assert failures == []


class Finalized:
    def __init__(self, holder: object) -> None:
        self.holder = holder

    def __del__(self) -> None:
        for _ in range(3):
            time.sleep(0)
