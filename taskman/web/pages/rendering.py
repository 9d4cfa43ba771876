"""Rendering a partial outside of a request: what a page includes and what its stream sends are the same file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment
from quart import current_app

from ...model.token import Scope
from ..auth import Identity, form_token, identity

__all__ = ["Renderer", "renderer", "rights_of"]


@dataclass(frozen=True, slots=True)
class Renderer:
    """Renders templates for one reader, whose forms carry `token`; `may` says which forms that reader gets."""

    environment: Environment
    token: str
    may: Mapping[str, bool]

    async def __call__(self, template: str, **values: Any) -> str:
        return await self.environment.get_template(template).render_async(token=self.token, may=self.may, **values)

    async def into(self, target: str, template: str, swap: str = "outerHTML", **values: Any) -> str:
        """The fragment for htmx to swap into `target`, a selector; nothing happens where the page has no such place."""
        content = await self(template, **values)
        return f'<hx-partial hx-target="{target}" hx-swap="{swap}">{content}</hx-partial>'


def renderer() -> Renderer:
    """The renderer for whoever sent this request."""
    return Renderer(current_app.jinja_env, form_token(), rights_of(identity()))


def rights_of(identity: Identity) -> dict[str, bool]:
    """What templates ask before they show a button: `may.run`, `may.write` …"""
    return {str(scope): identity.may(scope) for scope in Scope}
