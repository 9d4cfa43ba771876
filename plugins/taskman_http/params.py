"""What a request is made of, checked at submit: what cannot be sent is refused there, with the remedy."""

from __future__ import annotations

import json
import re
from ipaddress import IPv6Address
from typing import Annotated, Any, Literal, Self

import httpx2
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from taskman import Duration

__all__ = ["HttpParams", "checked_url"]

LIMIT_MOST = 512 * 1024
"""More than this, as text with every character escaped or as base64, would not fit into a run's result."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_.])?")
_STATUSES = re.compile(r"([1-5]\d\d)(?:-([1-5]\d\d))?")
_OURS = frozenset(
    {"connection", "content-length", "expect", "keep-alive", "proxy-authorization", "proxy-connection", "te"}
    | {"trailer", "transfer-encoding", "upgrade"}
)


def checked_url(text: str) -> httpx2.URL:
    """The URL, with its host in ASCII and without a fragment. Raises ValueError with the remedy."""
    try:
        url = httpx2.URL(text.strip())
    except httpx2.InvalidURL as error:
        raise ValueError(f"this is no URL: {error}") from None
    if url.scheme not in ("http", "https"):
        raise ValueError("a URL begins with http:// or https://")
    if url.userinfo:
        raise ValueError("a URL must not hold a user or password, where all can read them: use 'basic_auth'")
    if not _is_host(url.raw_host.decode("ascii")):
        raise ValueError(f"'{url.host}' is no host: write http://HOST/PATH, with [] around an IPv6 address")
    if url.port is not None and not 1 <= url.port <= 65535:
        raise ValueError(f"there is no port {url.port}: ports go from 1 to 65535")
    return url.copy_with(fragment=None)


def _is_host(host: str) -> bool:
    if ":" not in host:
        return len(host) <= 253 and _HOST.fullmatch(host) is not None
    try:
        return IPv6Address(host).scope_id is None
    except ValueError:
        return False


def _check_url(text: str) -> str:
    checked_url(text)
    return text.strip()


def _check_headers(headers: dict[str, str]) -> dict[str, str]:
    seen: set[str] = set()
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"'{name}' is no name of a header: use letters, digits and hyphens")
        if not all(character == "\t" or " " <= character <= "~" for character in value):
            raise ValueError(f"the value of '{name}' must be one line of plain ASCII characters")
        if name.lower() in _OURS:
            raise ValueError(f"'{name}' is set by Taskman itself: leave it out")
        if name.lower() in seen:
            raise ValueError(f"'{name}' is there twice: join the values with a comma")
        seen.add(name.lower())
    return headers


def _as_texts(given: Any) -> Any:
    """Codes may come as numbers, and one alone without its list."""
    some = given if isinstance(given, list) else [given]
    return [str(one) if isinstance(one, int) and not isinstance(one, bool) else one for one in some]


def _check_statuses(statuses: list[str]) -> list[str]:
    for text in statuses:
        first, last = _range(text)
        if last < first:
            raise ValueError(f"'{text}' ends before it begins: write {last}-{first}")
    return [text.strip() for text in statuses]


def _range(text: str) -> tuple[int, int]:
    found = _STATUSES.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"'{text}' is no status: write a code such as 204, or a range such as 200-299")
    return int(found[1]), int(found[2] or found[1])


Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"]


class HttpParams(BaseModel):
    """A request, what answer counts as success, and how much of it is kept."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[str, AfterValidator(_check_url)] = Field(title="URL", examples=["https://example.com/"])
    method: Annotated[Method, BeforeValidator(lambda name: name.upper() if isinstance(name, str) else name)] = Field(
        "GET", title="Method"
    )
    query: dict[str, str] = Field(default_factory=dict, title="Query", description="added to the URL")
    headers: Annotated[dict[str, str], AfterValidator(_check_headers)] = Field(
        default_factory=dict, title="Headers", description="such as Accept=application/json"
    )
    basic_auth: str | None = Field(None, title="Basic auth", description="user:password, sent as a header")
    body: str | None = Field(None, title="Body", description="text to send, as text/plain unless a header says else")
    json_body: JsonValue = Field(None, alias="json", title="JSON body", description="a document to send instead")
    expected_status: Annotated[list[str], BeforeValidator(_as_texts), AfterValidator(_check_statuses)] = Field(
        ["200-299"],
        min_length=1,
        max_length=100,
        title="Expected status",
        description="codes or ranges that count as success",
    )
    keep_body: Literal["text", "base64", "none"] = Field(
        "text",
        title="Body of the answer",
        description="text leaves out pictures and the like; base64 keeps any body",
    )
    body_limit: int = Field(
        64 * 1024,
        ge=0,
        le=LIMIT_MOST,
        title="Limit of the answer",
        description="bytes of its body that are read and kept, up to 524288",
    )
    max_redirects: int = Field(5, ge=0, le=20, title="Redirects", description="how many are followed; 0: none")
    allow_downgrade: bool = Field(False, title="Follow redirects from https to http")
    connect_timeout: Duration = Field(10.0, gt=0, le=3600, title="Connect timeout", description="to get a connection")
    read_timeout: Duration = Field(
        60.0, gt=0, le=86_400, title="Read timeout", description="how long the server may be silent"
    )
    verify_tls: bool = Field(True, title="Verify the certificate")
    ca_file: str | None = Field(
        None, title="CA file", description="PEM file on the worker with the authorities to trust instead of the usual"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.body is not None and self.json_body is not None:
            raise ValueError("give 'body' or 'json', not both")
        if self.basic_auth is not None:
            self._check_basic_auth(self.basic_auth)
        if self.ca_file is not None and not self.verify_tls:
            raise ValueError("'ca_file' is of no use while 'verify_tls' is off: leave one of them out")
        if "\0" in (self.ca_file or ""):
            raise ValueError("'ca_file' has a zero byte, which no path has")
        self.content()
        return self

    def _check_basic_auth(self, credentials: str) -> None:
        if ":" not in credentials or "\n" in credentials or "\r" in credentials:
            raise ValueError("'basic_auth' takes user:password, on one line")
        if any(name.lower() == "authorization" for name in self.headers):
            raise ValueError("give 'basic_auth' or an Authorization header, not both")

    def content(self) -> bytes | None:
        """The bytes of the body. Raises ValueError when the text has no bytes, as a lone surrogate has none."""
        try:
            if self.json_body is not None:
                document = json.dumps(self.json_body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
                return document.encode()
            return None if self.body is None else self.body.encode()
        except ValueError as error:
            raise ValueError(f"the body cannot be sent: {error}") from None

    def expects(self, status: int) -> bool:
        """Whether that status counts as success."""
        return any(first <= status <= last for first, last in map(_range, self.expected_status))
