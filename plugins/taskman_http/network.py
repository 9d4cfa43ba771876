"""Connections to checked addresses only, and the TLS contexts for them."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable
from functools import lru_cache

import httpcore2
import trio

from taskman import TaskFailed

from .policy import Policy

__all__ = ["CheckedNetwork", "tls_context"]


class CheckedNetwork(httpcore2.AsyncNetworkBackend):
    """Resolves a name once, has every address checked, and connects to one of these very addresses.

    The name goes on to TLS and the Host header, but never to a resolver again.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._network = httpcore2.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """A connection to the first address that takes one. `timeout` is for all of it, each gets a fair share.

        Raises: Fatal when the policy refuses, httpcore2's ConnectError and ConnectTimeout.
        """
        end = trio.current_time() + (float("inf") if timeout is None else timeout)
        addresses = await self._addresses(host, port, end)
        error: Exception = httpcore2.ConnectError(f"'{host}' has no address")
        for number, address in enumerate(addresses):
            share = (end - trio.current_time()) / (len(addresses) - number)
            try:
                return await self._network.connect_tcp(
                    address, port, max(share, 0), local_address, socket_options or ()
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as failure:
                error = failure
        raise error

    async def _addresses(self, host: str, port: int, end: float) -> list[str]:
        try:
            with trio.fail_at(end):
                return await self._policy.addresses(host, port)
        except trio.TooSlowError as error:
            raise httpcore2.ConnectTimeout(f"no name server told the address of '{host}' in time") from error
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise httpcore2.ConnectError(f"'{host}' cannot be resolved: {why}") from error

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts of httpcore2's own, of which we ask for none."""
        await trio.sleep(seconds)


async def tls_context(verify: bool, ca_file: str | None) -> ssl.SSLContext:
    """A context that trusts the system's authorities, or those in `ca_file`, or anybody.

    Reading them takes its time, so that it is done in a thread, once. Raises TaskFailed.
    """
    try:
        return await trio.to_thread.run_sync(_find_context, verify, ca_file)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise TaskFailed("error", f"cannot read the authorities in '{ca_file or 'SSL_CERT_FILE'}': {why}") from error


def _find_context(verify: bool, ca_file: str | None) -> ssl.SSLContext:
    return _context(verify, ca_file, 0 if ca_file is None else os.stat(ca_file).st_mtime_ns)


@lru_cache(maxsize=16)
def _context(verify: bool, ca_file: str | None, changed: int) -> ssl.SSLContext:
    """`changed` makes a file that was written anew a new one."""
    if not verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    return httpcore2.default_ssl_context() if ca_file is None else ssl.create_default_context(cafile=ca_file)
