"""Reading what API requests carry: JSON bodies and query parameters, each with its clear refusal."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json
from quart import request
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from ...errors import Fault, InvalidInput, nearest
from ...model.instants import parse_duration, parse_instant
from ...model.sameness import digest_of
from ..auth import identity

__all__ = [
    "check_query",
    "digests_of",
    "idempotency_of",
    "instant_of",
    "json_body",
    "limit_of",
    "number_of",
    "parse_json",
    "seconds_of",
    "trigger_by",
    "trigger_of",
    "whole_json",
]

MAX_LIMIT = 1000
MAX_WAIT_S = 300.0


async def json_body(*, optional: bool = False) -> Any:
    """The request's JSON. Raises UnsupportedMediaType (415) and BadRequest (400) that say what to send."""
    data = await request.get_data()
    if not data and optional:
        return {}
    if request.mimetype != "application/json":
        raise UnsupportedMediaType("send JSON, with the header Content-Type: application/json")
    return whole_json(data)


def whole_json(data: str | bytes) -> Any:
    """What a body says. Raises BadRequest (400) that tells what was expected where."""
    try:
        return parse_json(data)
    except ValueError as error:
        raise BadRequest(f"the body is no JSON in UTF-8: {error}") from None


def parse_json(data: str | bytes) -> Any:
    """What JSON text in UTF-8 says. Stricter than Python's own reader, which takes NaN and halves of characters.

    Raises: ValueError that says what was expected where.
    """
    return from_json(data, allow_inf_nan=False)


async def idempotency_of() -> tuple[str, str] | None:
    """Digests of the Idempotency-Key (of this caller and address) and of the body, where there is a key."""
    key = request.headers.get("Idempotency-Key")
    return None if key is None else digests_of(key, identity().by, request.path, await request.get_data())


def digests_of(key: str, by: str, path: str, body: str | bytes) -> tuple[str, str]:
    """The digests by which a request is known again, and what it asked for. Raises InvalidInput."""
    if not 1 <= len(key) <= 255:
        raise InvalidInput("an Idempotency-Key has 1 to 255 characters", "")
    return digest_of(by, path, key), digest_of(body)


def check_query(*known: str) -> None:
    """Refuse query parameters that would be ignored in silence."""
    unknown = [name for name in request.args if name not in known]
    if unknown:
        sentence = "there is no parameter '{}'{}"
        raise InvalidInput(Fault(f"?{name}", sentence.format(name, nearest(name, known))) for name in unknown)


def number_of(name: str, default: int, least: int, most: int) -> int:
    """A whole number from the query. Raises InvalidInput."""
    text = request.args.get(name)
    if text is None:
        return default
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise InvalidInput(f"'{name}' takes a whole number from {least} to {most}", f"?{name}")
    return number


def limit_of() -> int:
    """The length of a page: 50 unless asked otherwise."""
    return number_of("limit", 50, 1, MAX_LIMIT)


def seconds_of(name: str, default: float = 0.0) -> float:
    """A duration from the query, at most five minutes. Raises InvalidInput."""
    text = request.args.get(name)
    try:
        return default if text is None else min(MAX_WAIT_S, parse_duration(text))
    except ValueError as error:
        raise InvalidInput(str(error), f"?{name}") from None


def instant_of(name: str) -> int | None:
    """An instant from the query, epoch ms; None when it is not there. Raises InvalidInput."""
    text = request.args.get(name)
    try:
        return None if text is None else parse_instant(text)
    except ValueError as error:
        raise InvalidInput(str(error), f"?{name}") from None


def trigger_of() -> str:
    """Whether the command line or another program asks."""
    return trigger_by(request.headers.get("User-Agent", ""))


def trigger_by(user_agent: str) -> str:
    """Whether a program that calls itself so is the command line or another one."""
    return "cli" if user_agent.startswith("taskman-cli") else "api"
