"""Requests and answers: from the params through redirects to the last answer, with a line of log for each step."""

from __future__ import annotations

import base64
import os
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpcore2
import httpx2
import trio

from taskman import Fatal, TaskFailed, __version__

from .answer import Answer, read_answer
from .masking import shown_url
from .network import CheckedNetwork, tls_context
from .params import HttpParams, checked_url
from .policy import Policy

__all__ = ["ask"]

Log = Callable[[str], None]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HARMLESS = frozenset({"accept", "accept-encoding", "accept-language", "content-type", "user-agent"})
"""What another origin may see: no credentials, by whatever name a service calls them."""


@dataclass(frozen=True, slots=True)
class _Request:
    """One request. The names of `headers` are in lower case."""

    method: str
    url: httpx2.URL
    headers: Mapping[str, str]
    content: bytes | None

    @classmethod
    def of(cls, params: HttpParams) -> _Request:
        """The first request. All that is sent comes from here; headers and body from nowhere else."""
        url = checked_url(params.url)
        content = params.content()
        headers = {
            "accept": "*/*",
            "accept-encoding": "gzip",
            "user-agent": f"taskman/{__version__}",
            **_content_type(params),
            **_authorization(params),
            **{name.lower(): value.strip() for name, value in params.headers.items()},
        }
        return cls(params.method, url.copy_merge_params(params.query) if params.query else url, headers, content)

    def redirected(self, status: int, url: httpx2.URL) -> _Request:
        """The request that follows on a redirect: with GET and no body where HTTP has it so."""
        headers = dict(self.headers)
        if _origin(url) != _origin(self.url):
            headers = {name: value for name, value in headers.items() if name in _HARMLESS}
        is_read = self.method in ("GET", "HEAD")
        if is_read or not (status == 303 or (status in (301, 302) and self.method == "POST")):
            return replace(self, url=url, headers=headers)
        headers.pop("content-type", None)
        return _Request("GET", url, headers, None)


def _content_type(params: HttpParams) -> dict[str, str]:
    if params.json_body is not None:
        return {"content-type": "application/json"}
    return {} if params.body is None else {"content-type": "text/plain; charset=utf-8"}


def _authorization(params: HttpParams) -> dict[str, str]:
    if params.basic_auth is None:
        return {}
    return {"authorization": "Basic " + base64.b64encode(params.basic_auth.encode()).decode()}


def _origin(url: httpx2.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


async def ask(params: HttpParams, policy: Policy, log: Log) -> Answer:
    """The last answer to the request, after the redirects that the params allow.

    Each connection is this run's own, and is closed when it ends, however it does.
    Raises: Fatal when the policy refuses an address, TaskFailed when no answer can be had.
    """
    request, seen = _Request.of(params), 0
    network = CheckedNetwork(policy)
    context = await _context(request.url, params)
    while True:
        answer = await _send(request, params, network, context, log)
        place = answer.headers.get("location")
        if answer.status not in _REDIRECTS or not place or not params.max_redirects or params.expects(answer.status):
            return answer
        try:
            url = _destination(request.url, place, params)
        except ValueError as error:
            return replace(answer, problem=f"the redirect cannot be followed: {error}")
        if seen == params.max_redirects:
            return replace(answer, problem=f"more than {seen} redirects, which is all that 'max_redirects' allows")
        request, seen = request.redirected(answer.status, url), seen + 1
        context = context or await _context(url, params)


async def _context(url: httpx2.URL, params: HttpParams) -> ssl.SSLContext | None:
    return await tls_context(params.verify_tls, params.ca_file) if url.scheme == "https" else None


def _destination(here: httpx2.URL, place: str, params: HttpParams) -> httpx2.URL:
    """Where a redirect leads to. Raises ValueError when that cannot or must not be followed."""
    try:
        url = here.join(place)
    except httpx2.InvalidURL:
        raise ValueError("its Location is no URL") from None
    if url.userinfo:
        raise ValueError("its Location holds a user or a password")
    if here.scheme == "https" and url.scheme == "http" and not params.allow_downgrade:
        raise ValueError(f"it leads from https to {shown_url(url)}; 'allow_downgrade' lets it")
    return checked_url(str(url))


async def _send(
    request: _Request, params: HttpParams, network: CheckedNetwork, context: ssl.SSLContext | None, log: Log
) -> Answer:
    log(_sent(request))
    begin = trio.current_time()
    origin = httpcore2.Origin(*_raw(request.url)[:3])
    async with httpcore2.AsyncHTTPConnection(origin, ssl_context=context, network_backend=network) as connection:
        with _explained(request.url, params):
            response = await connection.handle_async_request(_wire(request, params))
            try:
                answer = await read_answer(response, request.url, params.body_limit)
            finally:
                with trio.CancelScope(shield=True):  # closing never waits: it is a close(2)
                    await response.aclose()
    log(_came(answer, trio.current_time() - begin))
    return answer


def _raw(url: httpx2.URL) -> tuple[bytes, bytes, int, bytes]:
    return url.raw_scheme, url.raw_host, _origin(url)[2], url.raw_path


def _wire(request: _Request, params: HttpParams) -> httpcore2.Request:
    scheme, host, port, target = _raw(request.url)
    headers = {"host": request.url.netloc.decode("ascii"), "connection": "close", **request.headers}
    if request.content is not None or request.method in ("POST", "PUT", "PATCH"):
        headers["content-length"] = str(len(request.content or b""))
    silence = params.read_timeout
    return httpcore2.Request(
        request.method,
        httpcore2.URL(scheme=scheme, host=host, port=port, target=target),
        headers=list(headers.items()),
        content=request.content or b"",
        extensions={
            "timeout": {"connect": params.connect_timeout, "read": silence, "write": silence},
            "sni_hostname": host.rstrip(b".").decode("ascii"),  # certificates have no dot at the end
        },
    )


def _sent(request: _Request) -> str:
    body = "no body" if request.content is None else f"{len(request.content):,} bytes"
    return f"{request.method} {shown_url(request.url)} (headers {', '.join(request.headers)}; {body})"


def _came(answer: Answer, seconds: float) -> str:
    kind = answer.headers.get("content-type", "").partition(";")[0][:100] or "no content type"
    size = f"{len(answer.body):,} bytes" if answer.is_whole else f"cut after {len(answer.body):,} bytes"
    place = f", to {_shown_location(answer)}" if answer.status in _REDIRECTS and "location" in answer.headers else ""
    return f"{answer.title} after {seconds:.3f} s ({kind}, {size}){place}"


def _shown_location(answer: Answer) -> str:
    try:
        return shown_url(answer.url.join(answer.headers["location"]))
    except httpx2.InvalidURL:
        return "what is no URL"


@contextmanager
def _explained(url: httpx2.URL, params: HttpParams) -> Iterator[None]:
    """What went wrong on the way, in words that say what to do."""
    place = f"{url.host}:{_origin(url)[2]}"
    try:
        yield
    except httpcore2.ConnectTimeout as error:
        kind = "connection with TLS" if url.scheme == "https" else "connection"
        raise _failure(f"no {kind} to {place} within {params.connect_timeout:g} s ('connect_timeout')") from error
    except httpcore2.ConnectError as error:
        raise _failure(_no_connection(place, error)) from error
    except httpcore2.ReadTimeout as error:
        raise _failure(f"{place} was silent for {params.read_timeout:g} s ('read_timeout')") from error
    except httpcore2.WriteTimeout as error:
        raise _failure(f"{place} took nothing in for {params.read_timeout:g} s ('read_timeout')") from error
    except httpcore2.RemoteProtocolError as error:
        raise _failure(f"{place} breaks off, or does not speak HTTP: {error}") from error
    except httpcore2.LocalProtocolError as error:
        raise Fatal(f"this cannot be sent as HTTP: {error}") from error
    except httpcore2.NetworkError as error:
        raise _failure(f"the connection to {place} broke: {_root(error)}") from error


def _failure(message: str) -> TaskFailed:
    return TaskFailed("error", message)


def _no_connection(place: str, error: Exception) -> str:
    root = _root(error)
    if isinstance(root, ssl.SSLCertVerificationError):
        hint = "name its authority in 'ca_file', or switch 'verify_tls' off"
        return f"the certificate of {place} is not trusted ({root.verify_message}): {hint}"
    if isinstance(root, ssl.SSLError):
        return f"no TLS with {place} ({root.reason or root}): is it an http:// address?"
    if isinstance(root, OSError) and root.errno and not isinstance(root, socket.gaierror):
        return f"no connection to {place}: {os.strerror(root.errno)}"
    return f"no connection to {place}: {error}"


def _root(error: BaseException) -> Any:
    """The system's own error at the bottom of a chain of causes."""
    if isinstance(error, BaseExceptionGroup):
        return _root(error.exceptions[-1])
    deeper = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return error if deeper is None else _root(deeper)
