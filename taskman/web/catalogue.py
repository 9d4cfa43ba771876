"""Every task type that a run can have: those installed here, and those that workers and other servers have.

A plugin on a worker is enough: the worker describes its types when it connects, and the form, the check of the API
and the pages follow from the JSON Schema. Where a type is installed here, its own model checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import trio
from jsonschema import Draft202012Validator, ValidationError
from pydantic_core import from_json, to_json

from ..errors import Fault, InvalidInput, StoreError, nearest
from ..model.description import TypeDescription
from ..plugins import PluginRegistry
from ..store.store import Store
from ..tasktypes import describe

__all__ = ["Catalogue", "KnownType"]

KEPT_S = 5.0


@dataclass(frozen=True, slots=True)
class KnownType:
    """A task type, and how params are checked against it: `check` raises InvalidInput with pointers below /params."""

    about: TypeDescription
    check: Callable[[object], object]
    is_here: bool

    @property
    def name(self) -> str:
        return self.about.name

    @property
    def version(self) -> str:
        return self.about.version

    @property
    def description(self) -> str:
        return self.about.description

    @property
    def schema(self) -> Mapping[str, Any]:
        return self.about.schema


class Catalogue:
    """Knows the types of `registry`, and for five seconds at a time those that the store knows."""

    def __init__(self, store: Store, registry: PluginRegistry) -> None:
        self._store, self._registry = store, registry
        self._elsewhere: dict[str, TypeDescription] = {}
        self._read_at = -KEPT_S

    async def announce(self) -> None:
        """Describe the types that are installed here to the other servers."""
        with suppress(StoreError):  # a full or absent Redis keeps no descriptions; ours are known here all the same
            await self._store.types.describe(describe(one) for one in self._registry.task_types.values())

    async def all(self) -> list[KnownType]:
        """Every type, by name. During an outage of Redis those that were known before it."""
        elsewhere = await self._known_elsewhere()
        here = self._registry.task_types
        names = sorted({*here, *elsewhere})
        return [self._here(name) if name in here else _foreign(elsewhere[name]) for name in names]

    async def get(self, name: str) -> KnownType:
        """The type of that name. Raises InvalidInput that names the nearest one."""
        if name in self._registry.task_types:
            return self._here(name)
        elsewhere = await self._known_elsewhere()
        if name not in elsewhere:
            names = sorted({*self._registry.task_types, *elsewhere})
            known = ", ".join(names) or "none is installed"
            hint = nearest(name, names)
            raise InvalidInput(f"there is no task type '{name}'{hint} (known: {known})", "/type")
        return _foreign(elsewhere[name])

    async def check(self, name: str, params: object) -> None:
        """Check params. Raises InvalidInput for them, and for a type that nobody has."""
        if name in self._registry.task_types:
            self._registry.read_params(name, params)
        else:
            (await self.get(name)).check(params)

    def _here(self, name: str) -> KnownType:
        check = partial(self._registry.read_params, name)
        return KnownType(describe(self._registry.task_types[name]), check, is_here=True)

    async def _known_elsewhere(self) -> Mapping[str, TypeDescription]:
        if trio.current_time() >= self._read_at + KEPT_S:
            with suppress(StoreError):
                self._elsewhere = {one.name: one for one in await self._store.types.known()}
                self._read_at = trio.current_time()
        return self._elsewhere


def _foreign(about: TypeDescription) -> KnownType:
    return KnownType(about, partial(_check, to_json(about.schema)), is_here=False)


def _check(schema: bytes, params: object) -> None:
    if not isinstance(params, Mapping):
        raise InvalidInput("send a JSON object", "/params")
    faults = [fault for error in _validator(schema).iter_errors(params) for fault in _faults_of(error)]
    if faults:
        raise InvalidInput(faults)


@lru_cache(maxsize=256)
def _validator(schema: bytes) -> Draft202012Validator:
    return Draft202012Validator(from_json(schema))


def _faults_of(error: ValidationError) -> list[Fault]:
    pointer = "/params" + "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in error.path)
    known = error.schema.get("properties", {}) if isinstance(error.schema, Mapping) else {}
    if error.validator == "additionalProperties" and isinstance(error.instance, Mapping):
        extra = [name for name in error.instance if name not in known]
        return [Fault(f"{pointer}/{name}", f"there is no field '{name}'{nearest(name, known)}") for name in extra]
    if error.validator == "required" and isinstance(error.instance, Mapping):
        missing = [name for name in error.validator_value if name not in error.instance]
        return [Fault(f"{pointer}/{name}", f"'{name}' is required") for name in missing]
    return [Fault(pointer, error.message)]
