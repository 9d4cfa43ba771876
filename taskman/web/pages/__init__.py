"""The server-rendered pages: they work without JavaScript, and are live with it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from quart import Blueprint, g, request
from quart_trio import QuartTrio

from ..auth import form_token, identity
from . import (
    ansi,
    charts,
    errors,
    icons,
    interventions,
    live,
    login,
    logview,
    overview,
    plugins,
    runs,
    schedules,
    tasks,
    theme,
    wording,
    workers,
)
from .notices import clear_shown_notice, take_notice
from .rendering import rights_of

__all__ = ["blueprints", "prepare"]

blueprints: tuple[Blueprint, ...] = (
    login.blueprint,
    overview.blueprint,
    runs.blueprint,
    tasks.blueprint,
    interventions.blueprint,
    schedules.blueprint,
    workers.blueprint,
    plugins.blueprint,
    live.blueprint,
    theme.blueprint,
)
_NAVIGATION = (
    ("/", "Overview", "overview"),
    ("/runs", "Runs", "runs"),
    ("/tasks", "Tasks", "tasks"),
    ("/schedules", "Schedules", "schedules"),
    ("/workers", "Workers", "workers"),
    ("/plugins", "Plugins", "plugins"),
)


def prepare(app: QuartTrio, nav_items: Sequence[tuple[str, str]]) -> None:
    """Give the templates what all of them use; `nav_items` are those of plugins, after ours."""
    navigation = (*_NAVIGATION, *((path, label, "plugin") for label, path in nav_items))
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.globals.update(
        icon=icons.icon,
        bars=charts.bars,
        clock=logview.clock,
        **{name: getattr(wording, name) for name in wording.__all__},
    )
    app.jinja_env.filters.update(ansi=ansi.styled)
    app.context_processor(partial(_common, navigation))
    app.after_request(clear_shown_notice)
    errors.register(app)


async def _common(navigation: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """What the frame around every page shows; nothing here may need the store, since error pages have it too."""
    signed_in = "identity" in g
    return {
        "navigation": navigation,
        "section": _section([path for path, _, _ in navigation], request.path),
        "here": request.full_path.rstrip("?"),
        "theme": theme.chosen(),
        "notice": take_notice(),
        "user": identity().by.partition(":")[2] if signed_in else None,
        "scope": identity().scope if signed_in else None,
        "may": rights_of(identity()) if signed_in else {},
        "token": form_token() if signed_in else "",
    }


def _section(paths: Sequence[str], here: str) -> str:
    """The entry of the navigation that leads here, or above here: the longest one."""
    above = [path for path in paths if here == path or (path != "/" and here.startswith(path.rstrip("/") + "/"))]
    return max(above, key=len, default="")
