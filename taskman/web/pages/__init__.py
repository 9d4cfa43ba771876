"""The server-rendered pages: they work without JavaScript, and are live with it."""

from __future__ import annotations

from typing import Any

from quart import Blueprint, g, request
from quart_trio import QuartTrio

from ..auth import form_token, identity
from . import ansi, charts, errors, icons, live, login, logview, overview, plugins, runs, tasks, theme, wording
from .notices import clear_shown_notice, take_notice
from .rendering import rights_of

__all__ = ["blueprints", "prepare"]

blueprints: tuple[Blueprint, ...] = (
    login.blueprint,
    overview.blueprint,
    runs.blueprint,
    tasks.blueprint,
    plugins.blueprint,
    live.blueprint,
    theme.blueprint,
)
_NAVIGATION = (
    ("/", "Overview", "overview"),
    ("/runs", "Runs", "runs"),
    ("/tasks", "Tasks", "tasks"),
    ("/plugins", "Plugins", "plugins"),
)


def prepare(app: QuartTrio) -> None:
    """Give the templates what all of them use."""
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.globals.update(
        icon=icons.icon,
        bars=charts.bars,
        clock=logview.clock,
        **{name: getattr(wording, name) for name in wording.__all__},
    )
    app.jinja_env.filters.update(ansi=ansi.styled)
    app.context_processor(_common)
    app.after_request(clear_shown_notice)
    errors.register(app)


async def _common() -> dict[str, Any]:
    """What the frame around every page shows; nothing here may need the store, since error pages have it too."""
    signed_in = "identity" in g
    return {
        "navigation": _NAVIGATION,
        "section": "/" + request.path.split("/")[1],
        "here": request.full_path.rstrip("?"),
        "theme": theme.chosen(),
        "notice": take_notice(),
        "user": identity().by.partition(":")[2] if signed_in else None,
        "scope": identity().scope if signed_in else None,
        "may": rights_of(identity()) if signed_in else {},
        "token": form_token() if signed_in else "",
    }
