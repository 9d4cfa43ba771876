"""Reads what people type: parameters, files of them, times and durations. What is wrong is a usage error."""

from __future__ import annotations

import json
import math
import sys
import tomllib
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, NoReturn

import click

from ..model.instants import parse_duration

__all__ = ["instant", "object_from", "parameters", "past", "seconds"]


def parameters(pairs: tuple[str, ...]) -> dict[str, Any]:
    """`key=value` pairs; a value that is JSON is taken as JSON, any other as text."""
    values = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not key or not equals:
            raise click.UsageError(f"-p takes key=value, such as -p who=world, not '{pair}'")
        values[key] = _value(text)
    return values


def _value(text: str) -> Any:
    try:
        return _decode(text)
    except (ValueError, RecursionError):
        return text


def _decode(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse, parse_float=_finite)


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number in JSON")


def object_from(name: str) -> dict[str, Any]:
    """The object in a file: TOML when the name ends in .toml, else JSON; `-` is JSON from standard input."""
    text = _read(name)
    shown = "standard input" if name == "-" else name
    try:
        found = json.loads(json.dumps(tomllib.loads(text), default=_moment)) if _is_toml(name) else _decode(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise click.UsageError(f"{shown} is not JSON: {error.msg} at {place}") from None
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{shown} is not {'TOML' if _is_toml(name) else 'JSON'}: {error}") from None
    if not isinstance(found, dict):
        raise click.UsageError(f'{shown} must hold an object, such as {{"key": "value"}}')
    return found


def _is_toml(name: str) -> bool:
    return name.endswith(".toml")


def _read(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")
    except OSError as error:
        raise click.UsageError(f"{name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"{name} is not text in UTF-8") from None


def _moment(value: object) -> str:
    """A date or time of TOML as RFC 3339; one without an offset is local."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.astimezone()).isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    raise ValueError(f"{value!r} cannot be sent")


def instant(text: str) -> str:
    """RFC 3339 with an offset, from the same or from a local time such as `2026-12-01 09:00`."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.astimezone()).isoformat()
    except (ValueError, OverflowError):
        raise click.UsageError(
            f"'{text}' is no time: write '2026-12-01 09:00' (local) or 2026-12-01T09:00:00+01:00"
        ) from None


def past(text: str) -> str:
    """RFC 3339 with an offset, from a duration before now such as `2h`, or from a time."""
    try:
        ago = timedelta(seconds=parse_duration(text))
    except ValueError:
        return instant(text)
    return (datetime.now(UTC) - ago).isoformat()


def seconds(text: str) -> float:
    """The seconds of a duration such as `90s` or `5m`."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
