"""The plugin registry: finds task types through entry points, and keeps a broken plugin from stopping anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy
from pydantic import BaseModel

from . import hookspecs
from .errors import InvalidInput, PluginError, nearest
from .model.validation import validate
from .tasktypes import TaskType

__all__ = ["PluginInfo", "PluginRegistry", "discover"]

GROUP = "taskman"


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin as installed: where it comes from, what it adds, and why it was refused if it was."""

    name: str
    distribution: str
    version: str
    task_types: tuple[str, ...] = ()
    error: str | None = None


class PluginRegistry:
    """The task types that this process knows."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager("taskman")
        self.manager.add_hookspecs(hookspecs)
        self.task_types: dict[str, TaskType] = {}
        self.plugins: list[PluginInfo] = []

    def load(self, entry_point: EntryPoint) -> None:
        """Import and register one plugin. Never raises: what is wrong with it is kept as its error."""
        dist = entry_point.dist
        about = (entry_point.name, dist.name if dist else "?", dist.version if dist else "?")
        try:
            module = entry_point.load()
            self._register(module, entry_point.name)
        except Exception as error:  # whatever a stranger's module does at import
            self.plugins.append(PluginInfo(*about, error=f"{type(error).__name__}: {error}"))
        else:
            names = [one.name for one in _task_types_of(self.manager, module)]
            self.plugins.append(PluginInfo(*about, task_types=tuple(names)))

    def _register(self, module: Any, name: str) -> None:
        self.manager.register(module, name=name)
        try:
            added = list(_task_types_of(self.manager, module))
            for one in added:
                if one.name in self.task_types:
                    raise PluginError(f"the task type '{one.name}' is taken already: give it another name")
        except Exception:
            self.manager.unregister(module)
            raise
        self.task_types.update({one.name: one for one in added})

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
        return validate(self.task_type(type_name).Params, params, "/params")


def discover(found: Iterable[EntryPoint] | None = None) -> PluginRegistry:
    """A registry with every installed plugin, in the order of their names."""
    registry = PluginRegistry()
    for entry_point in sorted(found or entry_points(group=GROUP), key=lambda one: one.name):
        registry.load(entry_point)
    return registry


def _task_types_of(manager: pluggy.PluginManager, module: Any) -> Iterable[TaskType]:
    others = [plugin for plugin in manager.get_plugins() if plugin is not module]
    for found in manager.subset_hook_caller("taskman_task_types", others)():
        for one in found:
            if not isinstance(one, TaskType):
                raise PluginError(f"taskman_task_types returned {one!r}: return instances of taskman.TaskType")
            yield one
