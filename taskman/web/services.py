"""What every part of the web server works with, made once by the assembly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from quart import current_app

from ..plugins import PluginRegistry
from ..store.store import Store
from .access import Access
from .catalogue import Catalogue
from .drain import Drain

__all__ = ["Services", "services"]


@dataclass(frozen=True, slots=True)
class Services:
    """`types` are all there are; `access` knows who is asking; `secret_key` signs forms; `queue_limit` 0 is none."""

    store: Store
    registry: PluginRegistry
    drain: Drain
    timezone: str
    access: Access
    secret_key: bytes
    queue_limit: int = 0
    types: Catalogue = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "types", Catalogue(self.store, self.registry))


def services() -> Services:
    """The services of the application that answers this request."""
    return cast(Services, current_app.extensions["taskman"])
