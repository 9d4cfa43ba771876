"""The assembly of a remote worker: the agent, its link to a server, and its end."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import trio

from . import __version__, credentials
from .config import Config
from .errors import ConfigError, nearest, sole
from .garbage import settle_garbage_collector
from .model.admission import Node
from .plugins import PluginRegistry, discover
from .runtime.dialing import Server
from .runtime.identity import worker_identity
from .runtime.journal import Journal
from .runtime.link_remote import RemoteLink
from .runtime.scratch import Scratch
from .runtime.spool import Spool
from .runtime.survivors import in_use, pick_up
from .runtime.worker import Worker
from .tasktypes import describe

__all__ = ["Options", "main"]

_LEAVE_S = 2.0
_log = logging.getLogger("taskman")


@dataclass(frozen=True, slots=True)
class Options:
    """What a worker serves, and for how long it lets runs finish when it is to stop (seconds).

    `types` and `queues` empty: all of them. `slots` None: twice the processors, at least 4.
    """

    url: str
    token: str
    name: str = ""
    slots: int | None = None
    queues: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    drain_timeout_s: float = 30.0
    ca_file: str = ""


def main(config: Config, options: Options) -> None:
    """Work until SIGTERM or Ctrl-C. Raises TaskmanError when it cannot begin."""
    os.environ.update(config.for_plugins())
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        trio.run(partial(_work_until_stopped, config, options))
    except BaseExceptionGroup as group:
        raise sole(group) from None


async def _work_until_stopped(config: Config, options: Options) -> None:
    directory = credentials.prepare_directory(config)
    registry = _registry(options.types)
    slots = options.slots or max(4, 2 * (os.cpu_count() or 1))
    with worker_identity(directory / "workers") as worker_id:
        node = Node(
            id=worker_id,
            types=frozenset(registry.task_types),
            labels=config.labels,
            slots=slots,
            running=0,
            queues=frozenset(options.queues) or None,
        )
        spool = Spool(directory / "spool" / worker_id, config.spool_limit)
        scratch, journal = Scratch(directory / "scratch" / worker_id), Journal(directory / "journal" / worker_id)
        await _run(_Parts(node, registry, options, spool, scratch, journal), slots)


@dataclass(frozen=True, slots=True)
class _Parts:
    node: Node
    registry: PluginRegistry
    options: Options
    spool: Spool
    scratch: Scratch
    journal: Journal


async def _run(parts: _Parts, slots: int) -> None:
    options, node = parts.options, parts.node
    server = Server(options.url, options.token, f"taskman-worker/{__version__}", options.ca_file)
    versions = {name: one.version for name, one in parts.registry.task_types.items()}
    described = [describe(one) for one in parts.registry.task_types.values()]
    link = RemoteLink(server.dial, node, versions, parts.spool, name=options.name, descriptions=described)
    survivors = await pick_up(parts.journal, parts.registry, link)
    async with trio.open_nursery() as base:
        base.start_soon(parts.scratch.sweep, parts.scratch.leftovers(in_use(survivors)))
        await base.start(partial(link.run, version=__version__))
        worker = Worker(link, parts.registry, slots, parts.scratch, parts.journal, survivors)
        await base.start(worker.run)
        settle_garbage_collector()
        _log.info("worker %s with %d slots for %s, at %s", node.id, slots, ", ".join(sorted(node.types)), options.url)
        await _wait_for_signal(base)
        await worker.drain(options.drain_timeout_s)
        await link.leave(_LEAVE_S)
        base.cancel_scope.cancel()


def _registry(types: Sequence[str]) -> PluginRegistry:
    """The task types that are installed, or those of them that are to be served."""
    registry = discover()
    for plugin in registry.broken:
        _log.warning("the plugin '%s' cannot be used: %s", plugin.name, plugin.error)
    for name in types:
        if name not in registry.task_types:
            known = ", ".join(sorted(registry.task_types)) or "none"
            raise ConfigError(
                f"there is no task type '{name}' here{nearest(name, registry.task_types)} (known: {known})"
            )
    if types:
        registry.task_types = {name: one for name, one in registry.task_types.items() if name in types}
    return registry


async def _wait_for_signal(base: trio.Nursery) -> None:
    """Return at the first SIGTERM or Ctrl-C; a second one ends everything at once."""
    arrived = trio.Event()

    async def listen() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                if arrived.is_set():
                    _log.warning("stopping at once")
                    base.cancel_scope.cancel()
                else:
                    _log.info("stopping: what runs may finish, a second signal ends it at once")
                arrived.set()

    base.start_soon(listen)
    await arrived.wait()
