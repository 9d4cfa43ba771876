"""The server-rendered pages: they work without JavaScript, and are live with it."""

from __future__ import annotations

from quart import Blueprint
from quart_trio import QuartTrio

from . import login

__all__ = ["blueprints", "prepare"]

blueprints: tuple[Blueprint, ...] = (login.blueprint,)


def prepare(app: QuartTrio) -> None:
    """Give the templates what all of them use."""
