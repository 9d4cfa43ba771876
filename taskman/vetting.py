"""Vetting: what a plugin and what its hooks return must be. Each refusal is a PluginError that names the remedy."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from pydantic import BaseModel, RootModel

from . import hookspecs
from .errors import PluginError, nearest
from .tasktypes import TaskType, params_schema

__all__ = ["HOOKS", "hooks_of", "vetted_nav_items", "vetted_task_types", "vetted_template_dirs"]

HOOKS: dict[str, tuple[str, ...]] = {
    name: tuple(inspect.signature(getattr(hookspecs, name)).parameters)
    for name in hookspecs.__all__
    if name.startswith("taskman_")
}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,99}")
_OPTIONS = "taskman_impl"  # where pluggy's marker keeps what it was given


def hooks_of(plugin: object) -> dict[str, Any]:
    """The hooks that it implements, by name. Raises PluginError for one that could never be called."""
    found: dict[str, Any] = {}
    for name in dir(plugin):
        function = inspect.getattr_static(plugin, name)
        if isinstance(function, (staticmethod, classmethod)):
            function = function.__func__
        if not inspect.isroutine(function):  # not to be asked for anything: quart.request would raise
            continue
        marked = getattr(function, _OPTIONS, None)
        if name in HOOKS and marked is None:
            raise PluginError(f"{name} is not marked as a hook: put @taskman.hookimpl above it")
        if marked is not None:
            wanted = (isinstance(marked, Mapping) and marked.get("specname")) or name
            found[wanted] = _vetted_hook(wanted, getattr(plugin, name), marked)
    if not found:
        raise PluginError(f"implements no hook: define {', '.join(HOOKS)}, marked with @taskman.hookimpl")
    return found


def _vetted_hook(name: str, function: Any, marked: Any) -> Any:
    if name not in HOOKS:
        raise PluginError(f"there is no hook '{name}'{nearest(name, HOOKS)} (known: {', '.join(HOOKS)})")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise PluginError(f"{name} is async: hooks are synchronous, write def")
    if isinstance(marked, Mapping) and (marked.get("wrapper") or marked.get("hookwrapper")):
        raise PluginError(f"{name} is a wrapper: a hook of Taskman stands for its own plugin only")
    parameters = inspect.signature(function).parameters.values()
    unknown = [one.name for one in parameters if one.name not in HOOKS[name] and one.default is one.empty]
    if unknown:
        takes = ", ".join(HOOKS[name]) or "no arguments"
        raise PluginError(f"{name} takes {takes}, not '{unknown[0]}'{nearest(unknown[0], HOOKS[name])}")
    taken = {one.name for one in parameters}
    return lambda **given: function(**{one: value for one, value in given.items() if one in taken})


def vetted_task_types(returned: object) -> list[TaskType]:
    """What taskman_task_types returned. Raises PluginError."""
    found = [_vetted_type(one) for one in _sequence("taskman_task_types", returned, "[Greet()]")]
    for one in found:
        if sum(other.name == one.name for other in found) > 1:
            raise PluginError(f"two task types are called '{one.name}': give each a name of its own")
    return found


def _sequence(hook: str, returned: object, example: str) -> Sequence[Any]:
    if returned is None:
        raise PluginError(f"{hook} returned nothing: return a list, such as {example}")
    if isinstance(returned, str) or not isinstance(returned, Sequence):
        raise PluginError(f"{hook} returned {_shown(returned)}: return a list, such as {example}")
    return returned


def _vetted_type(one: object) -> TaskType:
    if isinstance(one, type) and issubclass(one, TaskType):
        raise PluginError(f"taskman_task_types returned the class {one.__name__}: return an instance, {one.__name__}()")
    if not isinstance(one, TaskType):
        raise PluginError(f"taskman_task_types returned {_shown(one)}: return instances of taskman.TaskType")
    kind = type(one).__name__
    name = getattr(one, "name", None)
    if name is None:
        raise PluginError(f'the task type {kind} has no name: set name = "…" in its class')
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PluginError(f"the task type {kind} cannot be called {name!r}: use letters, digits, '.', '_' and '-'")
    for attribute in ("version", "description"):
        if not isinstance(getattr(one, attribute), str):
            value = getattr(one, attribute)
            raise PluginError(f"the {attribute} of the task type '{name}' is {value!r}: make it a text")
    if not isinstance(one.resumable, bool):
        raise PluginError(f"the task type '{name}' has a resumable of {one.resumable!r}: make it True or False")
    if not inspect.iscoroutinefunction(inspect.unwrap(one.run)):
        raise PluginError(f"the task type '{name}' has a run that is not async: write async def run(…)")
    _vet_params(name, getattr(one, "Params", None))
    return one


def _vet_params(name: str, params: object) -> None:
    if params is None:
        raise PluginError(f"the task type '{name}' has no Params: give it a pydantic model, an empty one if need be")
    if not isinstance(params, type) or not issubclass(params, BaseModel) or issubclass(params, RootModel):
        raise PluginError(f"the Params of the task type '{name}' are {_shown(params)}: make them a pydantic.BaseModel")
    try:
        params_schema(params)
    except Exception as error:  # pydantic's own, and whatever a stranger's type raises
        said = str(error).partition("\n")[0]
        raise PluginError(f"the Params of the task type '{name}' have no JSON Schema: {said}") from error


def vetted_template_dirs(returned: object) -> list[Path]:
    """What taskman_template_dirs returned. Raises PluginError."""
    example = '[Path(__file__).parent / "templates"]'
    found = []
    for one in _sequence("taskman_template_dirs", returned, example):
        path = Path(fspath(one)) if isinstance(one, (str, PathLike)) else None
        if path is None or not path.is_dir():
            raise PluginError(f"taskman_template_dirs returned {_shown(one)}, which is no directory: see package_data")
        found.append(path)
    return found


def vetted_nav_items(returned: object) -> list[tuple[str, str]]:
    """What taskman_nav_items returned. Raises PluginError."""
    example = '[("Greetings", "/greetings")]'
    found = []
    for one in _sequence("taskman_nav_items", returned, example):
        if not isinstance(one, Sequence) or len(one) != 2 or not all(isinstance(part, str) and part for part in one):
            raise PluginError(f"taskman_nav_items returned {_shown(one)}: return pairs, such as {example}")
        label, path = one
        if not path.startswith("/") or path.startswith("//"):
            raise PluginError(
                f"taskman_nav_items leads to '{path}': an address here begins with one /, as in {example}"
            )
        found.append((label, path))
    return found


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:80]}…"
