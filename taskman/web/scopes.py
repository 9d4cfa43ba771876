"""What each address needs. One that is missing here needs `admin`, and fails a test."""

from __future__ import annotations

from ..model.token import Scope

__all__ = ["PUBLIC", "SCOPES", "scope_of"]

PUBLIC = None
READ, RUN, WRITE, ADMIN = Scope.READ, Scope.RUN, Scope.WRITE, Scope.ADMIN

SCOPES: dict[str, Scope | None] = {
    "GET /health": PUBLIC,
    "GET /healthcheck": PUBLIC,
    "GET /ready": PUBLIC,
    "GET /static/<path:filename>": PUBLIC,
    "GET /login": PUBLIC,
    "POST /login": PUBLIC,
    "POST /logout": PUBLIC,
    # the API
    "GET /api/v1/runs": READ,
    "POST /api/v1/runs": RUN,
    "POST /api/v1/runs/bulk": RUN,
    "GET /api/v1/runs/<run_id>": READ,
    "DELETE /api/v1/runs/<run_id>": WRITE,
    "GET /api/v1/runs/<run_id>/log": READ,
    "GET /api/v1/runs/<run_id>/why": READ,
    "POST /api/v1/runs/<run_id>/cancel": RUN,
    "POST /api/v1/runs/<run_id>/retry": RUN,
    "GET /api/v1/tasks": READ,
    "POST /api/v1/tasks": WRITE,
    "GET /api/v1/tasks/<name>": READ,
    "PUT /api/v1/tasks/<name>": WRITE,
    "DELETE /api/v1/tasks/<name>": WRITE,
    "POST /api/v1/tasks/<name>/runs": RUN,
    "GET /api/v1/tasks/<name>/next": READ,
    "GET /api/v1/tasks/<name>/ledger": READ,
    "POST /api/v1/tasks/<name>/pause": WRITE,
    "POST /api/v1/tasks/<name>/resume": WRITE,
    "POST /api/v1/tasks/<name>/skip": WRITE,
    "POST /api/v1/tasks/<name>/backfill": RUN,
    "GET /api/v1/schedules": READ,
    "POST /api/v1/schedules/preview": READ,
    "GET /api/v1/queues": READ,
    "POST /api/v1/queues/<name>/pause": WRITE,
    "POST /api/v1/queues/<name>/resume": WRITE,
    "GET /api/v1/workers": READ,
    "GET /api/v1/workers/<worker_id>": READ,
    "POST /api/v1/workers/<worker_id>/drain": WRITE,
    "POST /api/v1/workers/<worker_id>/resume": WRITE,
    "GET /api/v1/events": READ,
    "GET /api/v1/task-types": READ,
    "GET /api/v1/plugins": READ,
    "GET /api/v1/tokens": ADMIN,
    "POST /api/v1/tokens": ADMIN,
    "DELETE /api/v1/tokens/<token_id>": ADMIN,
    # the pages
    "GET /": READ,
    "GET /runs": READ,
    "GET /runs/new": RUN,
    "POST /runs/new": RUN,
    "GET /runs/<run_id>": READ,
    "GET /runs/<run_id>/log": READ,
    "POST /runs/<run_id>/cancel": RUN,
    "POST /runs/<run_id>/again": RUN,
    "GET /tasks": READ,
    "GET /tasks/new": WRITE,
    "POST /tasks/new": WRITE,
    "POST /tasks/preview": WRITE,
    "GET /tasks/<name>": READ,
    "POST /tasks/<name>/runs": RUN,
    "POST /tasks/<name>/pause": WRITE,
    "POST /tasks/<name>/resume": WRITE,
    "POST /tasks/<name>/skip": WRITE,
    "GET /tasks/<name>/backfill": RUN,
    "POST /tasks/<name>/backfill": RUN,
    "GET /tasks/<name>/edit": WRITE,
    "POST /tasks/<name>/edit": WRITE,
    "GET /tasks/<name>/delete": WRITE,
    "POST /tasks/<name>/delete": WRITE,
    "GET /schedules": READ,
    "GET /schedules/preview": READ,
    "GET /workers": READ,
    "GET /workers/<worker_id>": READ,
    "POST /workers/<worker_id>/drain": WRITE,
    "POST /workers/<worker_id>/resume": WRITE,
    "GET /plugins": READ,
    "POST /theme": READ,
    "GET /live/overview": READ,
    "GET /live/runs": READ,
    "GET /live/runs/<run_id>": READ,
    "GET /live/tasks/<name>": READ,
    "GET /live/workers": READ,
    "GET /live/workers/<worker_id>": READ,
}


def scope_of(method: str, rule: str) -> Scope | None:
    """The scope that a request to the address needs, PUBLIC when it is open to everybody."""
    return SCOPES.get(f"{'GET' if method == 'HEAD' else method} {rule}", ADMIN)
