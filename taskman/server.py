"""The assembly: every actor of a server in one tree of nurseries, started and stopped in order."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import webbrowser
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import trio

from . import __version__, credentials
from .config import Config, local_timezone, parse_bind
from .errors import ConfigError, StoreError, StoreUnavailable, TaskmanError
from .garbage import settle_garbage_collector
from .model.admission import Node
from .model.instants import zone
from .plugins import PluginRegistry, discover
from .runtime.dispatcher import Dispatcher
from .runtime.frames import Frames, Peer
from .runtime.identity import worker_identity
from .runtime.journal import Journal
from .runtime.link_local import LocalLink
from .runtime.notifier import Notifier
from .runtime.placement import Placement
from .runtime.retention import Keep, compact_logs, retain
from .runtime.scheduler import Scheduler
from .runtime.scratch import Scratch
from .runtime.sessions import Sessions
from .runtime.survivors import in_use, pick_up
from .runtime.watchdog import watch
from .runtime.worker import Worker
from .store.embedded import EmbeddedRedis
from .store.store import Store
from .store.workers import About
from .web.access import Access
from .web.app import create_app
from .web.asgi import App
from .web.drain import Drain
from .web.express import Express
from .web.guard import Guard, allowed_hosts
from .web.listening import bound_urls, open_sockets
from .web.services import Services
from .web.serving import serve
from .web.worker_socket import WorkerSocket

__all__ = ["main"]

WEB_GRACE_S = 3.0
_log = logging.getLogger("taskman")


def main(config: Config, *, open_browser: bool = False, up: bool = False) -> int:
    """Run a server until SIGTERM or Ctrl-C. The exit code: 0 after a clean stop, 1 when it could not go on.

    `up` greets with a sign-in link; `open_browser` follows it.
    """
    os.environ.update(config.for_plugins())
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    errors: list[TaskmanError] = []
    try:
        trio.run(partial(_serve_until_stopped, config, open_browser=open_browser, greet=up))
    except* TaskmanError as group:
        errors = _flat(group)
    except* Exception as group:
        _log.critical("the server crashed and cannot go on", exc_info=group)
        errors = [TaskmanError("the server crashed, see above; please report it")]
    for error in errors:
        print(f"taskman: {error}", file=sys.stderr)
    return 1 if errors else 0


def _flat(group: BaseExceptionGroup[TaskmanError]) -> list[TaskmanError]:
    parts = (_flat(one) if isinstance(one, BaseExceptionGroup) else [one] for one in group.exceptions)
    return [error for part in parts for error in part]


@dataclass(frozen=True, slots=True)
class _Parts:
    """The pieces of a running server."""

    config: Config
    directory: Path
    store: Store
    registry: PluginRegistry
    drain: Drain
    sockets: list[socket.socket]
    worker_id: str
    access: Access
    dispatcher: Dispatcher
    sessions: Sessions


async def _serve_until_stopped(config: Config, *, open_browser: bool, greet: bool) -> None:
    addresses = parse_bind(config.bind)
    credentials.require_credentials(config, addresses)
    directory = credentials.prepare_directory(config)
    sockets = open_sockets(addresses)
    with worker_identity(directory / "workers") as worker_id:
        async with AsyncExitStack() as stack:
            redis = None
            if not config.redis_url:
                redis = await stack.enter_async_context(EmbeddedRedis(directory / "redis"))
            base = await stack.enter_async_context(trio.open_nursery())
            if redis is not None:
                base.start_soon(redis.watch)
            store = Store(redis.url if redis else config.redis_url, log_limit=config.log_limit)
            await base.start(store.run)
            access = Access(store, credentials.bootstrap_tokens(config, directory))
            dispatcher = Dispatcher(store)
            sessions = Sessions(store, dispatcher, worker_id)
            parts = _Parts(
                config, directory, store, _plugins(), Drain(), sockets, worker_id, access, dispatcher, sessions
            )
            await _run_services(parts, open_browser=open_browser, greet=greet)
            base.cancel_scope.cancel()


def _plugins() -> PluginRegistry:
    registry = discover()
    for one in registry.broken:
        _log.warning("the plugin '%s' of %s %s is out of order: %s", one.name, one.distribution, one.version, one.error)
    return registry


async def _run_services(parts: _Parts, *, open_browser: bool, greet: bool) -> None:
    """Everything that works on top of the store, until a signal; a crash of one ends them all."""
    async with trio.open_nursery() as services:
        await services.start(parts.dispatcher.run)
        worker = await _start_worker(parts, services)
        notifier = Notifier(parts.store, parts.registry)
        await services.start(notifier.run)
        await services.start(Scheduler(parts.store).run)
        await services.start(Placement(parts.store).run)
        await services.start(parts.access.run)
        services.start_soon(watch, parts.store)
        services.start_soon(compact_logs, parts.store)
        services.start_soon(retain, parts.store, _keep(parts.config))
        web_services = _services(parts)
        await web_services.types.announce()
        async with trio.open_nursery() as web:
            await web.start(
                partial(serve, _application(parts, web_services), parts.sockets, parts.drain, grace_s=WEB_GRACE_S)
            )
            url = bound_urls(parts.sockets)[0]
            credentials.announce_url(parts.directory, url)
            settle_garbage_collector()
            if greet:
                await _greet(parts, url, open_browser=open_browser)
            else:
                _log.info("serving %s", url)
            await _wait_for_signal(services)
            parts.drain.start()
            parts.sessions.stop()
            credentials.withdraw_url(parts.directory, url)
            if worker is not None:
                await worker.drain(parts.config.drain_timeout)
                await parts.store.workers.remove(parts.worker_id)
            await notifier.drain()
        services.cancel_scope.cancel()


def _keep(config: Config) -> Keep:
    return Keep(config.keep_days, config.keep_runs, config.keep_runs_per_task)


async def _start_worker(parts: _Parts, nursery: trio.Nursery) -> Worker | None:
    """The local worker, unless it has no slots. What its predecessor of the same id held goes on, or is lost."""
    slots = parts.config.workers
    if slots is None:
        slots = max(4, 2 * (os.cpu_count() or 1))
    types = frozenset(parts.registry.task_types)
    node = Node(id=parts.worker_id, types=types, labels=parts.config.labels, slots=slots, running=0)
    versions = {name: one.version for name, one in parts.registry.task_types.items()}
    about = About(parts.worker_id, __version__)
    link = LocalLink(parts.store, node, versions, dispatcher=parts.dispatcher, about=about)
    journal = Journal(parts.directory / "journal" / parts.worker_id)
    survivors = await pick_up(journal, parts.registry if slots else PluginRegistry(), link)
    scratch = Scratch(parts.directory / "scratch" / parts.worker_id)
    nursery.start_soon(scratch.sweep, scratch.leftovers(in_use(survivors)))
    if slots == 0:
        return None
    with suppress(StoreUnavailable):  # its first heartbeat says the same
        await parts.store.workers.enlist(node, versions, about, owner="server", session="-")
    worker = Worker(link, parts.registry, slots, scratch, journal, survivors)
    await nursery.start(link.run)
    await nursery.start(worker.run)
    return worker


def _services(parts: _Parts) -> Services:
    config = parts.config
    return Services(
        store=parts.store,
        registry=parts.registry,
        drain=parts.drain,
        timezone=_timezone(config),
        access=parts.access,
        secret_key=credentials.secret_key(config, parts.directory),
        queue_limit=config.queue_limit or 0,
    )


def _application(parts: _Parts, services: Services) -> Guard:
    rules = allowed_hosts(parse_bind(parts.config.bind), parts.config.allowed_hosts)
    app = Express(cast(App, create_app(services)), services)
    return Guard(WorkerSocket(app, services, partial(_serve_worker, parts)), hosts=rules, drain=parts.drain)


async def _serve_worker(
    parts: _Parts, frames: Frames, address: str, owner: str, ended: Callable[[], Awaitable[None]]
) -> None:
    """Where the web server hands the connection of a remote worker over."""
    await parts.sessions.serve(frames, Peer(address, owner, ended))


def _timezone(config: Config) -> str:
    name: str = config.timezone or local_timezone()
    try:
        zone(name)
    except ValueError as error:
        raise ConfigError(f"TASKMAN_TIMEZONE: {error}") from None
    return name


async def _greet(parts: _Parts, url: str, *, open_browser: bool) -> None:
    link = f"{url}/login"
    with suppress(StoreError):  # a full Redis keeps no link, and its runs need a server all the same
        link += f"?link={await parts.store.sessions.make_link('local')}"
    fitness = parts.store.fitness
    where = (parts.config.redis_url and "your Redis") or f"an embedded Redis in {parts.directory / 'redis'}"
    print(
        f"Taskman is up at {url}\n"
        f"Sign in (works once, within the hour): {link}\n"
        f"Runs are kept in {where} {fitness.version}, durability: {fitness.durability}\n"
        "Try, in another terminal:  taskman run -- echo hello\n"
        "Ctrl-C stops it.",
        flush=True,
    )
    if open_browser:
        await trio.to_thread.run_sync(webbrowser.open, link)


async def _wait_for_signal(services: trio.Nursery) -> None:
    """Return at the first SIGTERM or Ctrl-C; a second one ends everything at once."""
    arrived = trio.Event()

    async def listen() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                if arrived.is_set():
                    _log.warning("stopping at once")
                    services.cancel_scope.cancel()
                _log.info("stopping")
                arrived.set()

    services.start_soon(listen)
    await arrived.wait()
