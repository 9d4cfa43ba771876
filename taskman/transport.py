"""HTTP as the client needs it: one server, one token, and every failure as an exception of Taskman."""

from __future__ import annotations

import ipaddress
import json as json_codec
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from . import __version__
from .errors import ClientError, ConfigError, Fault, InvalidInput, RequestRefused, ServerUnreachable

if TYPE_CHECKING:
    import httpx2

__all__ = ["AWAY", "READ_TIMEOUT_S", "Transport", "checked_url", "is_loopback"]

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0
AWAY = frozenset({429, 502, 503, 504})
"""Statuses that say: not now, but perhaps soon."""


class Transport:
    """Sends requests to one server, with one token, over connections that stay open until `close`.

    Proxies from the environment are not used for loopback addresses, and redirects are never followed: the token
    goes to the server it was meant for. `has_answered` tells whether the server ever did.
    """

    def __init__(self, url: str, token: str, agent: str) -> None:
        import httpx2  # a tenth of a second, which commands that need no server do not pay

        self.url = checked_url(url)
        self.has_answered = False
        self._http = httpx2.Client(
            headers={"User-Agent": f"{agent}/{__version__}", **_authorization(token)},
            trust_env=not is_loopback(self.url),
            verify=self.url.startswith("https:"),  # reading the certificates takes its time
            follow_redirects=False,
        )

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        json: object = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> Any:
        """The document that the server answers with; None when it answers with none.

        Params that are None are left out.
        Raises: ServerUnreachable, RequestRefused; InvalidInput when `json` cannot be written as JSON.
        """
        content = None if json is None else _encode(json)
        with self._reached():
            response = self._http.request(
                method,
                self.url + path,
                content=content,
                params=_given(params),
                headers={**({"Content-Type": "application/json"} if content else {}), **(headers or {})},
                timeout=_timeouts(read_timeout_s),
            )
        self._check(response)
        return self._document(response)

    @contextmanager
    def stream(
        self, path: str, params: Mapping[str, Any], accept: str, read_timeout_s: float | None
    ) -> Iterator[Iterator[bytes]]:
        """The chunks of an answer as they arrive. No read timeout (None) for one that never ends."""
        # identity: a compressing proxy would hold back lines until its buffer is full
        headers = {"Accept": accept, "Accept-Encoding": "identity"}
        timeout = _timeouts(read_timeout_s)
        with (
            self._reached(),
            self._http.stream(
                "GET", self.url + path, params=_given(params), headers=headers, timeout=timeout
            ) as response,
        ):
            if not response.is_success:
                response.read()
            self._check(response)
            yield response.iter_bytes()

    @contextmanager
    def _reached(self) -> Iterator[None]:
        import httpx2

        try:
            yield
        except httpx2.TimeoutException as error:
            raise ServerUnreachable(self._absence("no answer in time")) from error
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            raise ServerUnreachable(self._absence(str(error) or type(error).__name__)) from error

    def _absence(self, why: str) -> str:
        start = "start one with `taskman up`, or " if is_loopback(self.url) else "check that it runs, or "
        return f"no Taskman server answers at {self.url} ({why}): {start}set TASKMAN_SERVER to another address"

    def _check(self, response: httpx2.Response) -> None:
        self.has_answered = True
        if response.is_success:
            return
        problem = _problem(response)
        raise self._stranger(response) if problem is None else _refusal(response.status_code, problem)

    def _stranger(self, response: httpx2.Response) -> ClientError:
        """What to say of an error that is no problem document, so does not come from Taskman itself."""
        status = f"{response.status_code} {response.reason_phrase}".strip()
        if response.status_code in AWAY:
            return ServerUnreachable(self._absence(f"something in front of it says {status}"))
        if response.has_redirect_location:
            place = response.headers["Location"]
            detail = f"{self.url} redirects to {place}: set TASKMAN_SERVER to the server's own address"
            return RequestRefused(response.status_code, "redirected", detail)
        detail = f"{self.url} answers {status}, but not as Taskman does: set TASKMAN_SERVER to a Taskman server"
        return RequestRefused(response.status_code, "stranger", detail)

    def _document(self, response: httpx2.Response) -> Any:
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError:
            detail = f"{self.url} does not answer in JSON: set TASKMAN_SERVER to a Taskman server"
            raise ClientError(detail) from None


def checked_url(url: str) -> str:
    """The base URL without a slash at its end. Raises ConfigError when it is no `http://HOST:PORT`."""
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or parts.username is not None or parts.query or parts.fragment:
        raise ConfigError(f"'{url}' is no address of a server: write TASKMAN_SERVER as http://HOST:PORT")
    return url.rstrip("/")


def is_loopback(url: str) -> bool:
    """Whether the URL names this machine, whatever a name service says."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _timeouts(read_s: float | None) -> httpx2.Timeout:
    import httpx2

    return httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, read=read_s)


def _authorization(token: str) -> dict[str, str]:
    if any(not "!" <= character <= "~" for character in token):
        raise ConfigError("the token has characters that no token has: copy it again, without blanks")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _encode(document: object) -> bytes:
    try:
        return json_codec.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{error.object[error.start]!a} is not valid text, so it cannot be sent") from None
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"this cannot be sent as JSON: {error}") from None


def _given(params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (params or {}).items() if value is not None}


def _problem(response: httpx2.Response) -> dict[str, Any] | None:
    if not response.headers.get("Content-Type", "").startswith("application/problem+json"):
        return None
    try:
        problem = response.json()
    except ValueError:
        return None
    return problem if isinstance(problem, dict) else None


def _refusal(status: int, problem: dict[str, Any]) -> RequestRefused:
    detail = str(problem.get("detail") or problem.get("title") or f"the server refuses with status {status}")
    if status >= 500 and problem.get("request_id"):
        detail += f" (request {problem['request_id']} in the server's log)"
    faults = [
        Fault(str(fault.get("pointer", "")), str(fault.get("detail", "")))
        for fault in problem.get("errors") or ()
        if isinstance(fault, dict)
    ]
    return RequestRefused(status, str(problem.get("code", "")), detail, faults)
