"""API tokens: who gets in, what each scope may do, and how soon a revoked one is turned away."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from harness import Server, eventually
from werkzeug.routing import Map

from taskman.model.token import Scope, is_token, new_token
from taskman.plugins import PluginRegistry
from taskman.store.store import Store
from taskman.web.access import Access
from taskman.web.app import create_app
from taskman.web.drain import Drain
from taskman.web.scopes import SCOPES
from taskman.web.services import Services

BOOTSTRAP = {"TASKMAN_ADMIN_TOKEN": "a" * 32, "TASKMAN_WORKER_TOKEN": "w" * 32}
READS = [address for address, scope in SCOPES.items() if scope is not None]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all that only looks."""
    server = Server(tmp_path_factory.mktemp("tokens") / "data", environment=BOOTSTRAP)
    yield server.start()
    if server.process is not None:
        server.kill_tree()


def client(server: Server, token: str = "") -> httpx2.Client:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx2.Client(base_url=server.url, headers=headers, timeout=30, trust_env=False)


def create(server: Server, scope: str, **more: Any) -> dict[str, Any]:
    with server.client() as admin:
        reply = admin.post("/tokens", json={"scope": scope, **more})
    assert reply.status_code == 201, reply.text
    made: dict[str, Any] = reply.json()
    return made


def status_of(server: Server, token: str, path: str = "/api/v1/runs") -> int:
    with client(server, token) as http:
        return http.get(path).status_code


# what a token is


def test_tokens_have_the_form_that_secret_scanners_look_for_and_no_two_are_the_same() -> None:
    tokens = {new_token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert all(re.fullmatch(r"tm_[0-9A-Za-z]{46}", token) and is_token(token) for token in tokens)


def test_a_token_with_any_one_character_changed_fails_its_checksum() -> None:
    token = new_token()
    for place in range(3, len(token)):
        other = "x" if token[place] != "x" else "y"
        assert not is_token(token[:place] + other + token[place + 1 :])


@pytest.mark.parametrize(
    ("scope", "may"),
    [
        ("read", {"read"}),
        ("run", {"read", "run"}),
        ("write", {"read", "run", "write"}),
        ("admin", {"read", "run", "write", "admin", "worker"}),
        ("worker", {"worker"}),
    ],
)
def test_each_scope_allows_what_the_ones_before_it_do(scope: str, may: set[str]) -> None:
    assert {str(needed) for needed in Scope if Scope(scope).allows(needed)} == may


# creating, listing, revoking


def test_a_token_is_shown_once_and_works_until_it_is_revoked(site: Server) -> None:
    made = create(site, "read", name="dashboard", expires="30d")
    assert is_token(made["token"])
    assert (made["name"], made["scope"], made["by"], made["last_used_at"]) == ("dashboard", "read", "token:local", None)
    assert made["expires_at"] > made["created_at"]
    assert status_of(site, made["token"]) == 200
    with site.client() as admin:
        listed = admin.get("/tokens")
        shown = next(one for one in listed.json()["items"] if one["id"] == made["id"])
        assert made["token"] not in listed.text
        assert shown["last_used_at"] is not None
        assert "token" not in shown
        assert admin.delete(f"/tokens/{made['id']}").status_code == 204
        assert admin.delete(f"/tokens/{made['id']}").status_code == 404
    assert status_of(site, made["token"]) == 401


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/scope"),
        ({"scope": "root"}, "/scope"),
        ({"scope": "read", "name": "a b"}, "/name"),
        ({"scope": "read", "name": "admin"}, "/name"),
        ({"scope": "read", "expires": "soon"}, "/expires"),
        ({"scope": "read", "expires": 0}, "/expires"),
        ({"scope": "read", "expire": "1d"}, "/expire"),
    ],
)
def test_a_bad_token_request_names_the_field(site: Server, body: dict[str, Any], pointer: str) -> None:
    with site.client() as admin:
        reply = admin.post("/tokens", json=body)
    assert reply.status_code == 422
    assert [fault["pointer"] for fault in reply.json()["errors"]] == [pointer]


def test_history_names_the_token(site: Server) -> None:
    made = create(site, "run", name="ci@build")
    with client(site, made["token"]) as http:
        run = http.post("/api/v1/runs", json={"type": "shell", "params": {"command": "true"}}).json()
    assert run["history"][0]["by"] == "token:ci@build"


def test_an_expired_token_is_turned_away(site: Server) -> None:
    made = create(site, "read", expires=1)
    assert status_of(site, made["token"]) == 200
    eventually(lambda: status_of(site, made["token"]) == 401, "the token expires")


def test_bootstrap_tokens_may_do_everything(site: Server) -> None:
    assert status_of(site, "a" * 32, "/api/v1/tokens") == 200
    assert status_of(site, site.token, "/api/v1/tokens") == 200


def test_the_bootstrap_token_of_the_workers_is_for_workers_only(site: Server) -> None:
    assert status_of(site, "w" * 32) == 403
    with client(site, "w" * 32) as http:
        assert "token 'workers' has 'worker'" in http.get("/api/v1/runs").json()["detail"]


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({"TASKMAN_WORKER_TOKEN": "short"}, "TASKMAN_WORKER_TOKEN is too short"),
        ({"TASKMAN_ADMIN_TOKEN": "a" * 32, "TASKMAN_WORKER_TOKEN": "a" * 32}, "are the same"),
    ],
)
def test_a_bootstrap_token_that_guards_nothing_is_refused(
    tmp_path: Path, environment: dict[str, str], complaint: str
) -> None:
    server = Server(tmp_path / "data", environment=environment)
    ended = server.command("server", "--port", "0")
    assert (ended.returncode, complaint in ended.stderr) == (1, True), ended.stderr


def test_no_secret_reaches_redis_or_the_log(site: Server) -> None:
    made = create(site, "admin", name="hidden")
    assert status_of(site, made["token"]) == 200
    assert status_of(site, made["token"] + "x") == 401
    for path in (site.directory / "redis").rglob("*"):
        assert not path.is_file() or made["token"].encode() not in path.read_bytes(), path
    assert made["token"] not in site.errors()


# what each scope may do


def url_map(tmp_path: Path) -> Map:
    store = Store(f"unix://{tmp_path / 'nowhere.sock'}")
    return create_app(Services(store, PluginRegistry(), Drain(), "UTC", Access(store, {}), b"key")).url_map


def app_rules(tmp_path: Path) -> set[str]:
    rules = url_map(tmp_path).iter_rules()
    return {f"{method} {rule.rule}" for rule in rules for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}


def test_every_route_has_a_scope_and_every_scope_a_route(tmp_path: Path) -> None:
    assert app_rules(tmp_path) == set(SCOPES)


def head_of(http: httpx2.Client, address: str) -> tuple[int, str, str]:
    """Status, body (of refusals) and where it leads; a stream that would go on for ever is left."""
    method, rule = address.split()
    path = re.sub(r"<\w+>", "x", rule)
    with http.stream(method, path, headers={"Accept": "*/*"}) as reply:
        body = "" if reply.is_success else reply.read().decode()
        return reply.status_code, body, reply.headers.get("Location", "")


@pytest.mark.parametrize("address", READS)
def test_every_route_is_closed_to_strangers(site: Server, address: str) -> None:
    with client(site) as stranger:
        status, _, location = head_of(stranger, address)
    assert status == 401 or (status == 303 and location.startswith("/login")), status


@pytest.fixture(scope="module")
def bearers(site: Server) -> Iterator[dict[str, httpx2.Client]]:
    """A client with a token of each scope."""
    made = {str(scope): client(site, create(site, scope, name=f"{scope}-bearer")["token"]) for scope in Scope}
    yield made
    for http in made.values():
        http.close()


@pytest.mark.parametrize("scope", [*Scope])
@pytest.mark.parametrize("address", [address for address in READS if " /api/" in address])
def test_the_api_lets_each_scope_do_its_own_and_no_more(
    bearers: dict[str, httpx2.Client], address: str, scope: Scope
) -> None:
    needed = SCOPES[address]
    assert needed is not None
    status, body, _ = head_of(bearers[scope], address)
    if scope.allows(needed):
        assert status not in (401, 403, 500), body
    else:
        assert status == 403
        assert f'"scope": "{needed}"' in body
        assert f"this needs the scope '{needed}'" in body


@pytest.fixture(scope="module")
def browsers(site: Server) -> Iterator[dict[str, httpx2.Client]]:
    """A signed-in browser for each scope that opens pages."""
    made = {}
    for scope in (Scope.READ, Scope.RUN, Scope.WRITE, Scope.ADMIN):
        made[str(scope)] = http = client(site)
        reply = http.post("/login", data={"token": create(site, scope, name=f"{scope}-browser")["token"]})
        assert reply.headers["Location"] == "/"
    yield made
    for http in made.values():
        http.close()


@pytest.mark.parametrize("scope", [Scope.READ, Scope.RUN, Scope.WRITE, Scope.ADMIN])
@pytest.mark.parametrize("address", [address for address in READS if " /api/" not in address])
def test_pages_let_each_scope_do_its_own_and_no_more(
    browsers: dict[str, httpx2.Client], address: str, scope: Scope
) -> None:
    needed = SCOPES[address]
    assert needed is not None
    status, body, location = head_of(browsers[scope], address)
    assert not location.startswith("/login")
    assert status not in (401, 500)
    assert (f"This needs the scope {needed}" in body) != scope.allows(needed)
    assert status == 403 or scope.allows(needed)


@pytest.fixture(scope="module")
def furnished(site: Server) -> list[str]:
    """Pages with something on them."""
    with site.client() as admin:
        task = {"name": "nightly", "type": "shell", "params": {"command": "true"}, "schedules": [{"every": "1h"}]}
        assert admin.post("/tasks", json=task).status_code == 201
        over = admin.post("/tasks/nightly/runs").json()["id"]
        waiting = admin.post("/runs", json={"type": "shell", "params": {"command": "true"}, "delay": "1d"}).json()["id"]
        admin.get(f"/runs/{over}", params={"wait": "20"})
        stopped = admin.post("/tasks", json=task | {"name": "stopped", "enabled": False})
        assert stopped.status_code == 201
    runs = [f"/runs/{over}", f"/runs/{waiting}/log"]
    return ["/", "/runs", "/tasks", "/plugins", "/tasks/nightly", "/tasks/stopped", *runs, "/nowhere"]


@pytest.mark.parametrize("scope", [Scope.READ, Scope.RUN, Scope.WRITE, Scope.ADMIN])
def test_pages_offer_nothing_that_would_be_refused(
    browsers: dict[str, httpx2.Client], furnished: list[str], scope: Scope, tmp_path: Path
) -> None:
    routes = url_map(tmp_path).bind("localhost")
    offered = set()
    for page in furnished:
        text = browsers[scope].get(page).text
        offered |= {("GET", path) for path in re.findall(r'<a [^>]*href="(/[^"#?]*)', text)}
        offered |= {("POST", path) for path in re.findall(r'<form [^>]*method="post"[^>]*action="(/[^"#?]*)', text)}
    rules = {f"{method} {routes.match(path, method=method, return_rule=True)[0].rule}" for method, path in offered}
    assert rules >= {"GET /runs/<run_id>", "GET /tasks/<name>", "POST /theme"}
    assert ("POST /tasks/<name>/runs" in rules) == scope.allows(Scope.RUN)
    assert ("GET /tasks/<name>/backfill" in rules) == scope.allows(Scope.RUN)
    for address in ("GET /tasks/<name>/edit", "POST /tasks/<name>/pause", "POST /tasks/<name>/resume"):
        assert (address in rules) == scope.allows(Scope.WRITE)
    assert ("POST /tasks/<name>/skip" in rules) == scope.allows(Scope.WRITE)
    for rule in rules:
        needed = SCOPES[rule]
        assert needed is None or scope.allows(needed), rule


def test_a_worker_token_opens_no_pages(site: Server) -> None:
    with client(site) as http:
        reply = http.post("/login", data={"token": create(site, "worker")["token"]})
        assert reply.status_code == 403
        assert "for workers" in reply.text
        assert http.get("/").headers["Location"].startswith("/login")


def test_a_revoked_token_ends_its_sessions(site: Server) -> None:
    made = create(site, "write")
    with client(site) as browser, site.client() as admin:
        browser.post("/login", data={"token": made["token"]})
        assert browser.get("/").status_code == 200
        admin.delete(f"/tokens/{made['id']}")
        assert browser.get("/").headers["Location"].startswith("/login")
        assert browser.get("/api/v1/runs").status_code == 401


# several servers, and an outage


def test_a_revocation_reaches_every_server(
    make_server: Callable[..., Server], start_redis: Callable[..., tuple[str, subprocess.Popen[bytes]]]
) -> None:
    url, _ = start_redis()
    here, there = (make_server(name, environment={"TASKMAN_REDIS_URL": url}) for name in ("here", "there"))
    made = create(here, "read")
    assert [status_of(one, made["token"]) for one in (here, there)] == [200, 200]
    with here.client() as admin:
        assert admin.delete(f"/tokens/{made['id']}").status_code == 204
    eventually(lambda: status_of(there, made["token"]) == 401, "the other server hears of it", within_s=2)


def test_an_outage_of_redis_is_no_reason_to_doubt_a_token(
    make_server: Callable[..., Server], start_redis: Callable[..., tuple[str, subprocess.Popen[bytes]]]
) -> None:
    url, redis = start_redis()
    server = make_server("data", environment={"TASKMAN_REDIS_URL": url})
    made = create(server, "read")
    redis.kill()
    redis.wait()
    with client(server, made["token"]) as http:
        reply = http.get("/api/v1/task-types")
        assert (reply.status_code, reply.json()["code"]) == (503, "store_unavailable")
        assert "Retry-After" in reply.headers
    assert status_of(server, "tm_wrong") == 401
    assert status_of(server, server.token, "/api/v1/task-types") == 200
