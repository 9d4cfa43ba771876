"""Guests: what plugins add to the web application, and what keeps it behind the sign-in."""

from __future__ import annotations

from functools import partial
from importlib.resources import files

from jinja2 import BaseLoader, ChoiceLoader, FileSystemLoader, PrefixLoader
from quart import request
from quart.typing import ResponseReturnValue
from quart_trio import QuartTrio

from ..model.token import Scope
from ..plugins import PluginRegistry
from .auth import require_api, require_page, require_socket

__all__ = ["admit", "template_loader"]

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def template_loader(registry: PluginRegistry) -> BaseLoader:
    """Finds templates: those of plugins first, then ours; `taskman/NAME` is always ours, so that it can be extended."""
    ours = FileSystemLoader(str(files("taskman.templates")))
    theirs = [FileSystemLoader(path) for path in registry.template_dirs]
    return ChoiceLoader([*theirs, ours, PrefixLoader({"taskman": ours})])


def admit(app: QuartTrio, registry: PluginRegistry) -> None:
    """Let plugins register their routes, after all of ours.

    What is not ours asks for a session, or for a token below /api/: with the scope `read` to look, `write` for
    everything else.
    """
    ours = frozenset(app.view_functions)

    async def require_sign_in() -> ResponseReturnValue | None:
        if request.endpoint is None or request.endpoint in ours:
            return None
        needed = Scope.READ if request.method in _SAFE else Scope.WRITE
        return await (require_api(needed) if request.path.startswith("/api/") else require_page(needed))

    app.before_request(require_sign_in)
    app.before_websocket(partial(require_socket, Scope.WRITE))
    registry.register_routes(app)
