"""Finds the callable that a name means, if it may be called: `package.module:function`, `package.module:Class.method`.

What may be called: what a pattern of the worker's allow list matches, and what is marked with `@taskman.task`.
Importing a module executes it, so no module is imported for a name that could not be allowed: without a matching
pattern, the module's source must mark just that name before it is imported.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

__all__ = ["Refused", "find"]

MARK = "__taskman_task__"
# Two threads that drop the importer of the same path at once: one of them gets a KeyError (CPython 3.11 to 3.13). Two
# that parse at once: SystemError, as they count their depth in one place (gh-106905; mended within 3.11 and 3.12).
_one_at_a_time = threading.Lock()
_PARSE_ATTEMPTS = 5  # the threads of others, such as of what a run has imported, know nothing of our lock


class Refused(Exception):
    """The callable cannot be called; the message says why, and what to do."""


def find(name: str, patterns: Sequence[str]) -> Callable[..., Any]:
    """The callable of that name. May import its module, and raises whatever that raises. Any thread may call it.

    Raises: Refused when there is no such thing, or when it is not allowed.
    """
    module_name, _, path = name.partition(":")
    with _one_at_a_time:
        importlib.invalidate_caches()
    if not any(fnmatchcase(name, pattern) for pattern in patterns):
        _require_mark(module_name, path)
    found: Any = _import(module_name)
    for part in path.split("."):
        found = _attribute(found, part, name)
    if not callable(found):
        raise Refused(f"'{name}' is no function: it is {_article(type(found).__name__)}")
    if not (name in patterns or isinstance(getattr(found, MARK, None), dict) or _is_at_home(found, path, patterns)):
        raise _not_allowed(name)
    return found  # type: ignore[no-any-return]


def _not_allowed(name: str, hint: str = "") -> Refused:
    return Refused(
        f"'{name}' is not allowed on this worker{hint or ':'} mark it with @taskman.task, "
        f"or start the worker with --allow-callable '{name}' (or set TASKMAN_ALLOW_CALLABLES)"
    )


def _is_at_home(found: Any, path: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern means it under its own name too: what a module has only imported is not meant by `module:*`."""
    module, qualified = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    is_private = any(part.startswith("_") for part in path.split("."))
    return not is_private and any(fnmatchcase(f"{module}:{qualified}", pattern) for pattern in patterns)


def _require_mark(module: str, path: str) -> None:
    """Refuse what the source of a module does not mark with `@task`; nothing of it is executed to find that out."""
    spec = _locate(module)
    if spec is None:
        raise _missing(module)
    read = getattr(spec.loader, "get_source", None)
    try:
        marked = set(_marked(_parse(read(module) or ""))) if read else set()
    except (SyntaxError, ValueError, ImportError) as error:
        raise Refused(f"the source of '{module}' cannot be read: {error}") from None
    if path not in marked:
        raise _not_allowed(f"{module}:{path}", _nearest(path, marked))


def _parse(source: str) -> ast.Module:
    for _ in range(_PARSE_ATTEMPTS):
        with contextlib.suppress(SystemError), _one_at_a_time:
            return ast.parse(source)
    return ast.parse(source)


def _marked(tree: ast.Module) -> Iterator[str]:
    """The functions at the top of a module, and in its classes, that are marked there."""
    marks = _names_of_task(tree)
    below: list[tuple[str, ast.stmt]] = [("", node) for node in tree.body]
    while below:
        prefix, node = below.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names = (ast.unparse(one.func if isinstance(one, ast.Call) else one) for one in node.decorator_list)
            if marks.intersection(names):
                yield prefix + node.name
        elif isinstance(node, ast.ClassDef):
            below += [(f"{prefix}{node.name}.", inner) for inner in node.body]


def _names_of_task(tree: ast.Module) -> set[str]:
    """What `taskman.task` is called in a module: as it was imported."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "taskman" and not node.level:
            names |= {alias.asname or alias.name for alias in node.names if alias.name == "task"}
        elif isinstance(node, ast.Import):
            names |= {f"{alias.asname or alias.name}.task" for alias in node.names if alias.name == "taskman"}
    return names


def _locate(name: str) -> ModuleSpec | None:
    """Where a module is, without importing it or its packages; None when there is none."""
    spec, path = None, None
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        spec = _find_spec(".".join(parts[:count]), path)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or ())
    return spec


def _find_spec(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        # PathFinder itself would look for the packages of a namespace among the imported ones.
        spec = _search(name, path) if finder is PathFinder else finder.find_spec(name, path)
        if spec is not None:
            return spec
    return None


def _search(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """As PathFinder does: a module or package of the first entry that has one, else a namespace of all entries."""
    portions: list[str] = []
    for entry in sys.path if path is None else path:
        finder = pkgutil.get_importer(entry or ".")
        spec = finder.find_spec(name) if finder else None
        if spec is not None and spec.loader is not None:
            return spec
        portions += (spec.submodule_search_locations or ()) if spec else ()
    if not portions:
        return None
    namespace = ModuleSpec(name, None, is_package=True)
    namespace.submodule_search_locations = portions
    return namespace


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise _missing(name) from None
        raise


def _missing(name: str) -> Refused:
    """The first part of the name that is not there, and what it may have meant."""
    package, path = "", None
    for part in name.split("."):
        full = f"{package}.{part}".lstrip(".")
        spec = _find_spec(full, path)
        if spec is None:
            known = [found.name for found in pkgutil.iter_modules(path)]
            where = f" in '{package}'" if package else " on this worker"
            return Refused(f"there is no module '{full}'{where}{_nearest(part, known)}")
        package, path = full, list(spec.submodule_search_locations or ())
    return Refused(f"there is no module '{name}' on this worker")


def _attribute(found: Any, part: str, name: str) -> Any:
    try:
        return getattr(found, part)
    except AttributeError:
        where = found.__name__ if isinstance(found, (ModuleType, type)) else type(found).__name__
        raise Refused(f"'{name}': '{where}' has no '{part}'{_nearest(part, dir(found))}") from None


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, [one for one in known if not one.startswith("_")], n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def _article(noun: str) -> str:
    return f"an {noun}" if noun[:1].lower() in "aeiou" else f"a {noun}"
