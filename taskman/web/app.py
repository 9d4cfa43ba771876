"""The web application: blueprints, templates, error pages. Served by taskman.web.serving, behind the guard."""

from __future__ import annotations

from importlib.resources import files

from quart import Response, request
from quart_trio import QuartTrio

from . import health
from .api import blueprint as api
from .guests import admit, template_loader
from .pages import blueprints, prepare
from .problems import problem_of
from .services import Services

__all__ = ["create_app"]

BODY_LIMIT = 16 * 1024 * 1024


def create_app(services: Services) -> QuartTrio:
    """The application with its services; nothing runs in it but requests."""
    app = QuartTrio("taskman.web", static_folder=str(files("taskman.web") / "static"), static_url_path="/static")
    app.config["MAX_CONTENT_LENGTH"] = BODY_LIMIT
    app.config["BODY_TIMEOUT"] = 60
    app.extensions["taskman"] = services
    app.jinja_loader = template_loader(services.registry)
    app.jinja_env.autoescape = True  # whatever a template is called
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.before_request(_refuse_unknown_addresses)
    for blueprint in (health.blueprint, api, *blueprints):
        app.register_blueprint(blueprint)
    prepare(app, services.registry.nav_items)
    admit(app, services.registry)
    return app


async def _refuse_unknown_addresses() -> Response | None:
    """An address or method that the API does not have belongs to no blueprint, whose handlers would see to it."""
    unmatched = request.routing_exception
    if unmatched is None or not request.path.startswith("/api/"):
        return None
    return problem_of(unmatched)
