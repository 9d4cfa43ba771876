"""What may be shown of a request: no passwords, tokens and signatures, in logs as in results."""

from __future__ import annotations

import re

import httpx2

__all__ = ["MASK", "shown_header", "shown_url"]

MASK = "********"
_SECRET = re.compile(r"auth|credential|key|passw|pwd|secret|session|sig|token|^code$", re.IGNORECASE)
_SECRET_HEADER = re.compile(r"^authorization$|api-?key|cookie|passw|secret|session|token")


def shown_url(url: httpx2.URL) -> str:
    """The URL without user, password, and the values of what a query calls a secret."""
    if url.userinfo:
        url = url.copy_with(username=None, password=None)
    secret = [name for name in url.params if _SECRET.search(name)]
    return str(url.copy_merge_params(dict.fromkeys(secret, MASK))).replace("%2A", "*") if secret else str(url)


def shown_header(name: str, value: str) -> str:
    """The value of a header of an answer: of a cookie only its name, of a place no secret."""
    if name == "set-cookie":
        return value.partition("=")[0] + "=" + MASK
    if name in ("location", "content-location", "refresh", "link"):
        return _shown_place(name, value)
    return MASK if _SECRET_HEADER.search(name) else value


def _shown_place(name: str, value: str) -> str:
    if name in ("refresh", "link"):  # URLs within other text
        return value if "?" not in value and "@" not in value else MASK
    try:
        return shown_url(httpx2.URL(value))
    except httpx2.InvalidURL:
        return MASK
