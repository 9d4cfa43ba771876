"""The plugin registry: finds plugins through entry points, and keeps a broken one from stopping anything."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, distributions, entry_points
from pathlib import Path
from typing import Any

import pluggy
from pydantic import BaseModel

from . import hookspecs
from .errors import InvalidInput, PluginError, nearest
from .model.results import told
from .model.validation import validate
from .tasktypes import TaskType
from .vetting import hooks_of, vetted_nav_items, vetted_task_types, vetted_template_dirs

__all__ = ["GROUP", "PluginInfo", "PluginRegistry", "discover"]

GROUP = "taskman"
OURS = "taskman-runner"
_log = logging.getLogger("taskman.plugins")


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin as installed: where it comes from, what it adds, and what is wrong with it if something is."""

    name: str
    distribution: str
    version: str
    task_types: tuple[str, ...] = ()
    error: str | None = None


@dataclass(slots=True)
class _Parts:
    """What a plugin adds, vetted."""

    task_types: list[TaskType]
    template_dirs: list[Path]
    nav_items: list[tuple[str, str]]
    hooks: dict[str, Any]


class PluginRegistry:
    """What the plugins of this process add. A plugin that was refused adds nothing at all."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager("taskman")
        self.manager.add_hookspecs(hookspecs)
        self.task_types: dict[str, TaskType] = {}
        self.template_dirs: list[Path] = []
        self.nav_items: list[tuple[str, str]] = []
        self.plugins: list[PluginInfo] = []
        self._hooks: dict[str, dict[str, Any]] = {}

    def load(self, entry_point: EntryPoint) -> None:
        """Import and register one plugin. Never raises: what is wrong with it is kept as its error."""
        about = PluginInfo(entry_point.name, *_origin(entry_point))
        try:
            with contextlib.redirect_stdout(sys.stderr):  # what a plugin prints must not get into what we print
                parts = self._vetted(entry_point)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a stranger's module does at import, or in its hooks
            about = replace(about, error=_complaint(error))
        else:
            self._take(about.name, parts)
            about = replace(about, task_types=tuple(one.name for one in parts.task_types))
        self.plugins.append(about)

    def _vetted(self, entry_point: EntryPoint) -> _Parts:
        plugin = _imported(entry_point)
        name = entry_point.name
        hooks = hooks_of(plugin)
        if self.manager.has_plugin(name):
            raise PluginError(f"another plugin is called '{name}' already: rename the entry point, or uninstall one")
        if self.manager.is_registered(plugin):
            known = self.manager.get_name(plugin)
            raise PluginError(f"it is the plugin '{known}' already: one of the two entry points is too many")
        parts = _Parts(
            task_types=_called(hooks, "taskman_task_types", vetted_task_types),
            template_dirs=_called(hooks, "taskman_template_dirs", vetted_template_dirs),
            nav_items=_called(hooks, "taskman_nav_items", vetted_nav_items),
            hooks=hooks,
        )
        for one in parts.task_types:
            if one.name in self.task_types:
                owner = next((info.name for info in self.plugins if one.name in info.task_types), "another")
                raise PluginError(f"the task type '{one.name}' is that of the plugin '{owner}': give it another name")
        self.manager.register(plugin, name=name)
        return parts

    def _take(self, name: str, parts: _Parts) -> None:
        self.task_types.update({one.name: one for one in parts.task_types})
        self.template_dirs += parts.template_dirs
        self.nav_items += parts.nav_items
        self._hooks[name] = parts.hooks

    @property
    def broken(self) -> list[PluginInfo]:
        """The plugins with which something is wrong."""
        return [one for one in self.plugins if one.error is not None]

    def implementations(self, hook: str) -> dict[str, Callable[..., Any]]:
        """Who implements that hook: the name of each plugin, and its function."""
        return {name: hooks[hook] for name, hooks in self._hooks.items() if hook in hooks}

    def register_routes(self, app: Any) -> None:
        """Let every plugin register its routes. A failure is kept as the plugin's error; the rest of it works on."""
        for name, register in self.implementations("taskman_routes").items():
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    register(app=app)
            except (Exception, SystemExit) as error:
                complaint = f"its pages are not all there: taskman_routes raised {_complaint(error)}"
                _log.warning("the plugin '%s': %s", name, complaint)
                self.plugins = [replace(one, error=complaint) if one.name == name else one for one in self.plugins]

    def task_type(self, name: str) -> TaskType:
        """The task type of that name. Raises InvalidInput that names the nearest one."""
        try:
            return self.task_types[name]
        except KeyError:
            known = ", ".join(sorted(self.task_types)) or "none is installed"
            hint = nearest(name, self.task_types)
            raise InvalidInput(f"there is no task type '{name}'{hint} (known: {known})", "/type") from None

    def read_params(self, type_name: str, params: object) -> BaseModel:
        """The params as the type's model reads them. Raises InvalidInput with pointers below /params."""
        model = self.task_type(type_name).Params
        try:
            return validate(model, params, "/params")
        except InvalidInput:
            raise
        except Exception as error:  # a validator that does not raise what pydantic turns into a complaint
            raise InvalidInput(f"the check of '{type_name}' failed: {_complaint(error)}", "/params") from error


def discover(found: Iterable[EntryPoint] | None = None) -> PluginRegistry:
    """A registry with every installed plugin: our own first, whose names nobody can take, then by name."""
    registry = PluginRegistry()
    installed = _installed(registry) if found is None else found
    for entry_point in sorted(installed, key=_rank):
        registry.load(entry_point)
    return registry


def _installed(registry: PluginRegistry) -> list[EntryPoint]:
    try:
        return list(entry_points(group=GROUP))
    except Exception:  # the metadata of one distribution spoils it for all: look at each alone
        return [one for distribution in distributions() for one in _entry_points_of(registry, distribution)]


def _entry_points_of(registry: PluginRegistry, distribution: Any) -> list[EntryPoint]:
    try:
        return [one for one in distribution.entry_points if one.group == GROUP]
    except Exception as error:
        if f"[{GROUP}]" in (distribution.read_text("entry_points.txt") or ""):
            complaint = f"its entry_points.txt cannot be read: {_complaint(error)}"
            registry.plugins.append(PluginInfo("?", *_about(distribution), error=complaint))
        return []


def _rank(entry_point: EntryPoint) -> tuple[bool, str, str]:
    distribution, _ = _origin(entry_point)
    return distribution != OURS, entry_point.name, distribution


def _origin(entry_point: EntryPoint) -> tuple[str, str]:
    return _about(entry_point.dist) if entry_point.dist else ("?", "?")


def _about(distribution: Any) -> tuple[str, str]:
    try:
        return distribution.name or "?", distribution.version or "?"
    except Exception:  # its metadata is missing, or broken
        return "?", "?"


def _imported(entry_point: EntryPoint) -> Any:
    if entry_point.pattern.match(entry_point.value) is None:
        raise PluginError(f"its entry point reads '{entry_point.value}': write a module, or module:object")
    try:
        return entry_point.load()
    except SystemExit as error:
        raise PluginError(f"the import of {entry_point.value} ended with sys.exit({error.code!r})") from error
    except Exception as error:
        raise PluginError(f"the import of {entry_point.value} raised {_complaint(error)}{_place(error)}") from error


def _called(hooks: dict[str, Any], name: str, vetted: Callable[[object], list[Any]]) -> list[Any]:
    if name not in hooks:
        return []
    try:
        returned = hooks[name]()
    except (Exception, SystemExit) as error:
        raise PluginError(f"{name} raised {_complaint(error)}{_place(error)}") from error
    return vetted(returned)


def _complaint(error: BaseException) -> str:
    said = told(error)
    return said if isinstance(error, PluginError) else f"{type(error).__name__}: {said}".rstrip(": ")


def _place(error: BaseException) -> str:
    """Where in the plugin it was raised: `(file.py, line 3)`."""
    if isinstance(error, SyntaxError):
        return ""  # says so itself
    frames = traceback.extract_tb(error.__traceback__)
    inner = [one for one in frames if one.filename != __file__ and "importlib" not in one.filename]
    return f" ({Path(inner[-1].filename).name}, line {inner[-1].lineno})" if inner else ""
