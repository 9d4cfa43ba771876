"""Rendering a partial outside of a request: what a page includes and what its stream sends are the same file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jinja2 import Environment
from quart import current_app

from ..auth import form_token

__all__ = ["Renderer", "renderer"]


@dataclass(frozen=True, slots=True)
class Renderer:
    """Renders templates for one reader, whose forms carry `token`."""

    environment: Environment
    token: str

    async def __call__(self, template: str, **values: Any) -> str:
        return await self.environment.get_template(template).render_async(token=self.token, **values)

    async def into(self, target: str, template: str, swap: str = "outerHTML", **values: Any) -> str:
        """The fragment for htmx to swap into `target`, a selector; nothing happens where the page has no such place."""
        content = await self(template, **values)
        return f'<hx-partial hx-target="{target}" hx-swap="{swap}">{content}</hx-partial>'


def renderer() -> Renderer:
    """The renderer for whoever sent this request."""
    return Renderer(current_app.jinja_env, form_token())
