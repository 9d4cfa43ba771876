"""Our own listening sockets: what is wrong with an address is said before anything else starts."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import Any

from ..config import Address
from ..errors import ConfigError

__all__ = ["bound_urls", "open_sockets"]

_BACKLOG = 2048
_DEAD_PEER_MS = 20_000


def open_sockets(addresses: Sequence[Address]) -> list[socket.socket]:
    """Listen on every one of `addresses`, or on none.

    Without SO_REUSEPORT, which would hide that another server has the port.
    Raises: ConfigError that says what is wrong with which address, and what to do.
    """
    sockets: list[socket.socket] = []
    v4_too = any(address.host == "0.0.0.0" for address in addresses)
    try:
        for address in addresses:
            sockets.append(_listen(address, v6_only=v4_too))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _listen(address: Address, *, v6_only: bool) -> socket.socket:
    family, target = _resolve(address)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # inherited by accepted connections: finds peers that fell silent
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_PEER_MS)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6_only)
        sock.bind(target)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(_why_not(address, error)) from error
    return sock


def _resolve(address: Address) -> tuple[socket.AddressFamily, Any]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"{address.host} cannot be resolved ({error}): correct TASKMAN_BIND") from error
    family, _, _, _, target = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, target


def _why_not(address: Address, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {address.port} on {address.host} is in use ({error.strerror}): stop the other server, "
            f"or choose another with --port N / TASKMAN_BIND"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"port {address.port} on {address.host} is not allowed to this user ({error.strerror}): choose one "
            f"from 1024 up with --port N / TASKMAN_BIND, or grant CAP_NET_BIND_SERVICE"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{address.host} is no address of this machine ({error.strerror}): correct TASKMAN_BIND"
    return f"cannot listen on {address} ({error.strerror or error}): correct TASKMAN_BIND"


def bound_urls(sockets: Sequence[socket.socket]) -> list[str]:
    """Where the sockets can be reached from this machine, such as http://127.0.0.1:43211."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    names = [sock.getsockname() for sock in sockets]
    return [f"http://{Address(local.get(host, host), port)}" for host, port, *_ in names]
