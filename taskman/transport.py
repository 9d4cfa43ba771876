"""HTTP as the clients need it: one server, one token, and every failure as an exception of Taskman.

Takes the steps of a dialogue, see taskman.dialogue. What a reply means is read in one place for both kinds of client.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import urlsplit

from . import __version__
from .dialogue import READ_TIMEOUT_S, Ask, Contact, Dialogue, Listen, Step
from .errors import (
    ClientError,
    ConfigError,
    Conflict,
    Fault,
    Forbidden,
    InvalidInput,
    NotFound,
    QueueFull,
    RequestRefused,
    ServerUnreachable,
    ServerUntrusted,
    TaskmanError,
    Unauthenticated,
)

if TYPE_CHECKING:
    import ssl

    import httpx2

__all__ = ["Talk", "Wire", "checked_url", "is_loopback"]

CONNECT_TIMEOUT_S = 5.0
_GONE = (502, 503, 504)
_BY_STATUS: dict[int, type[TaskmanError]] = {
    401: Unauthenticated,
    404: NotFound,
    409: Conflict,
    412: Conflict,
}

Answer = TypeVar("Answer")


class Talk(Generic[Answer]):
    """A dialogue under way: its next step, and what came of the last one."""

    def __init__(self, dialogue: Dialogue[Answer]) -> None:
        self._dialogue = dialogue
        self._answer: Any = None
        self._failure: TaskmanError | None = None
        self.result: Answer

    def step(self) -> Step | None:
        """What to do next; None at the end, when `result` is there. Raises what the dialogue ends with."""
        answer, failure = self._answer, self._failure
        self._answer = self._failure = None
        try:
            return self._dialogue.send(answer) if failure is None else self._dialogue.throw(failure)
        except StopIteration as end:
            self.result = end.value
            return None

    def answer(self, value: Any) -> None:
        """What came of the step."""
        self._answer = value

    def fail(self, error: TaskmanError) -> None:
        """Why the step failed, which the dialogue may bear with."""
        self._failure = error


class Wire:
    """What both kinds of client do alike: how to reach the server, and what its replies mean.

    Proxies from the environment are not used for loopback addresses, and redirects are never followed: the token
    goes to the server it was meant for. `ca_file`: see taskman.trust.
    """

    def __init__(self, url: str, token: str, agent: str, contact: Contact, ca_file: str = "") -> None:
        """Raises ConfigError for an address or a token that cannot be one."""
        self.url = checked_url(url)
        self.contact = contact
        self._ca_file = ca_file
        self._headers = {"User-Agent": f"{agent}/{__version__}", **_authorization(token)}

    def options(self) -> dict[str, Any]:
        """The arguments of the HTTP client, synchronous or not. Raises ConfigError for authorities not to be read."""
        return {
            "headers": self._headers,
            "trust_env": not is_loopback(self.url),
            "verify": self._trusted() if self.url.startswith("https:") else False,
            "follow_redirects": False,
        }

    def _trusted(self) -> ssl.SSLContext:
        """Not left to the HTTP client: it would not look at SSL_CERT_FILE for a loopback address."""
        from .trust import trusting

        return trusting(self._ca_file)

    def request(self, step: Ask | Listen) -> dict[str, Any]:
        """The arguments of `build_request` for a step."""
        arguments: dict[str, Any] = {"url": self.url + step.path, "params": _given(step.params)}
        if isinstance(step, Listen):
            # identity: a compressing proxy would hold back lines until its buffer is full
            headers = {"Accept": step.accept, "Accept-Encoding": "identity"}
            return {**arguments, "method": "GET", "headers": headers, "timeout": _timeouts(step.read_timeout_s)}
        headers = {"Content-Type": step.kind} if step.content is not None else {}
        arguments |= {"headers": {**headers, **step.headers}, "content": step.content}
        return {**arguments, "method": step.method, "timeout": _timeouts(step.read_timeout_s)}

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """Turns the failures of HTTP into ours."""
        import httpx2

        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.InvalidURL) as error:
            raise self._unreached(error) from error
        except httpx2.TimeoutException as error:
            raise ServerUnreachable(self._absence("no answer in time")) from error
        except (httpx2.RequestError, httpx2.StreamError) as error:
            why = str(error) or type(error).__name__
            raise ServerUnreachable(self._absence(why), is_lost_reply=True) from error

    def _unreached(self, error: Exception) -> ServerUnreachable:
        from .trust import distrust

        if told := distrust(error, self.url, self._ca_file):
            return ServerUntrusted(told)
        return ServerUnreachable(self._absence(str(error) or type(error).__name__))

    def _absence(self, why: str) -> str:
        start = "start one with `taskman up`, or " if is_loopback(self.url) else "check that it runs, or "
        return f"no Taskman server answers at {self.url} ({why}): {start}set TASKMAN_SERVER to another address"

    def check(self, response: httpx2.Response) -> None:
        """Raise what a refusal means; its body has been read."""
        self.contact.has_answered = True
        if response.is_success:
            return
        problem = _problem(response)
        raise self._stranger(response) if problem is None else _refusal(response.status_code, problem)

    def _stranger(self, response: httpx2.Response) -> ClientError:
        """What to say of an error that is no problem document, so does not come from Taskman itself."""
        status = f"{response.status_code} {response.reason_phrase}".strip()
        if response.status_code in (429, *_GONE):
            return ServerUnreachable(self._absence(f"something in front of it says {status}"), is_lost_reply=True)
        if response.has_redirect_location:
            place = response.headers["Location"]
            detail = f"{self.url} redirects to {place}: set TASKMAN_SERVER to the server's own address"
            return RequestRefused(response.status_code, "redirected", detail)
        detail = f"{self.url} answers {status}, but not as Taskman does: set TASKMAN_SERVER to a Taskman server"
        return RequestRefused(response.status_code, "stranger", detail)

    def document(self, response: httpx2.Response) -> Any:
        """What the server answers with; None when it answers with nothing."""
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


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _problem(response: httpx2.Response) -> dict[str, Any] | None:
    if not response.headers.get("Content-Type", "").startswith("application/problem+json"):
        return None
    try:
        problem = response.json()
    except ValueError:
        return None
    return problem if isinstance(problem, dict) else None


def _refusal(status: int, problem: dict[str, Any]) -> TaskmanError:
    """The exception that a problem document stands for."""
    code = str(problem.get("code", ""))
    detail = str(problem.get("detail") or problem.get("title") or f"the server refuses with status {status}")
    faults = [
        Fault(str(fault.get("pointer", "")), str(fault.get("detail", "")))
        for fault in problem.get("errors") or ()
        if isinstance(fault, dict)
    ]
    if status == 422:
        return InvalidInput(faults or detail)
    if status == 403:
        return Forbidden(detail, scope=problem.get("scope"))
    if code == QueueFull.code:
        return QueueFull(detail)
    if status in _BY_STATUS:
        return _BY_STATUS[status](detail)
    if status >= 500 and problem.get("request_id"):
        detail += f" (request {problem['request_id']} in the server's log)"
    return RequestRefused(status, code, detail, faults)
