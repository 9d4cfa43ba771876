"""Forms: fields from a JSON Schema, from what was typed to the API's JSON body, and faults back to their fields."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any

from pydantic import BaseModel

from ..errors import Fault, InvalidInput
from ..model.instants import datetime_of, parse_instant, zone
from ..model.validation import validate

__all__ = ["Field", "Form", "escaped", "shown"]


@dataclass(slots=True)
class Field:
    """One field: its name in the form (`params.env`), its look (`kind`), what it shows, and what is wrong with it.

    `preset` is what a box or a list shows when it is left alone: its default.
    """

    name: str
    label: str
    kind: str = "line"
    help: str = ""
    required: bool = False
    default: str = ""
    example: str = ""
    choices: Sequence[tuple[str, str]] = ()
    values: Mapping[str, Any] = field(default_factory=dict)  # what a choice stands for, unless for itself
    timezone: str = "UTC"
    value: str = ""
    preset: str | None = None
    faults: list[str] = field(default_factory=list)
    focus: bool = False

    @property
    def id(self) -> str:
        return self.name.replace(".", "-")

    @property
    def shows_something(self) -> bool:
        """Whether there is something to see that is not there by itself: a value of somebody's, or a fault."""
        return bool(self.faults) or self.value != (self.preset or "")

    @property
    def path(self) -> list[str]:
        """Where its value is in the body."""
        return [part.replace("%2E", ".").replace("%25", "%") for part in self.name.split(".")]

    def text_of(self, value: Any) -> str:
        """A JSON value as this field shows it."""
        same = (text for text, meant in self.values.items() if meant == value and type(meant) is type(value))
        return next(same, None) or shown(self.kind, value)

    @property
    def rows(self) -> int:
        """How many lines a multi-line field shows."""
        least = 4 if self.kind == "text" else 2
        return min(max(least, (self.value or self.default or self.example).count("\n") + 1), 16)

    @property
    def described_by(self) -> str:
        """The ids of the help and the faults, for aria-describedby."""
        return " ".join(f"{self.id}-{part}" for part, there in (("help", self.help), ("faults", self.faults)) if there)


def shown(kind: str, value: Any) -> str:
    """A JSON value as its field shows it."""
    if kind == "flag":
        return "on" if value else ""
    if kind == "duration" and isinstance(value, (int, float)):
        return _compact(value)
    if kind in ("list", "numbers") and isinstance(value, list):
        return "\n".join(str(one) for one in value)
    if kind == "map" and isinstance(value, Mapping):
        return "\n".join(f"{name}={one}" for name, one in value.items())
    if kind == "json" or not isinstance(value, (str, int, float)):
        return json.dumps(value, ensure_ascii=False, indent=2)
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _compact(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def _number(text: str) -> Any:
    """The number, or the text itself, for the model to complain about."""
    for reader in (int, float):
        try:
            return reader(text.strip())
        except ValueError:
            continue
    return text


def _number_or_text(text: str) -> Any:
    """What was typed, as what it looks like; anything else is a text, also a decimal that no float can hold."""
    words = {"true": True, "false": False}
    if text.strip() in words:
        return words[text.strip()]
    number = _number(text)
    if isinstance(number, float) and (not math.isfinite(number) or Decimal(repr(number)) != Decimal(text.strip())):
        return text.strip()
    return number


def _pairs(text: str) -> dict[str, str]:
    pairs = {}
    for number, line in enumerate(text.split("\n"), 1):
        name, equals, value = line.partition("=")
        if not equals and line.strip():
            raise ValueError(f"line {number}: write KEY=value")
        if equals:
            pairs[name.strip()] = value
    return pairs


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"this is no JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None


_READERS: dict[str, Callable[[str], Any]] = {
    "line": str.strip,
    "duration": str.strip,
    "text": str,
    "choice": str,
    "date": str.strip,
    "secret": str,
    "either": _number_or_text,
    "number": _number,
    "list": lambda text: [line for line in text.split("\n") if line.strip()],
    "numbers": lambda text: [_number(part) for part in text.replace(",", "\n").split("\n") if part.strip()],
    "map": _pairs,
    "json": _json,
}


def _read(one: Field) -> Any:
    """What was typed as JSON. Raises ValueError with the remedy."""
    if one.kind == "moment":
        return _instant(one.value, one.timezone)
    if one.value in one.values:
        return one.values[one.value]
    return _READERS[one.kind](one.value)


def _instant(text: str, timezone: str) -> str:
    """The instant of a wall-clock time, as the API takes it."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("write a date and a time as 2026-12-01T09:00") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone(timezone))).isoformat()


class Form:
    """Sections of fields; with what was typed in them, and what is wrong, beside each."""

    def __init__(self, **sections: Iterable[Field]) -> None:
        self.sections = {name: list(fields) for name, fields in sections.items()}
        self.faults: list[str] = []

    @property
    def fields(self) -> dict[str, Field]:
        """Every field by its name, in order."""
        return {one.name: one for fields in self.sections.values() for one in fields}

    def take(self, typed: Mapping[str, str]) -> None:
        """Keep what was typed, as it was; a browser sends line ends as CRLF."""
        for one in self.fields.values():
            one.value = typed.get(one.name, "").replace("\r\n", "\n")

    def show(self, body: Mapping[str, Any]) -> None:
        """Fill the fields from a body as the API takes it; what is the default anyway stays blank."""
        for one in self.fields.values():
            value: Any = body
            for part in one.path:
                value = value.get(part) if isinstance(value, Mapping) else None
            if value is None:
                continue
            text = _wall_time(value, one.timezone) if one.kind == "moment" else one.text_of(value)
            one.value = "" if text == one.default else text

    def read(self) -> tuple[dict[str, Any], list[Fault]]:
        """The body for the API, without what was left blank or preset; and the faults of what cannot be read."""
        body: dict[str, Any] = {}
        faults: list[Fault] = []
        for one in (one for fields in self.sections.values() for one in fields):
            if one.value == one.preset or (not one.value.strip() and one.kind != "flag"):
                continue
            try:
                _put(body, one.path, one.value == "on" if one.kind == "flag" else _read(one))
            except ValueError as error:
                faults.append(Fault("".join(f"/{part}" for part in one.path), str(error)))
        return body, faults

    def body(self, model: type[BaseModel], check_params: Callable[[object], object]) -> dict[str, Any]:
        """The body for the API. Raises InvalidInput with all faults at once: of reading, of `model`, of its params."""
        body, unreadable = self.read()
        faults: list[Fault] = []
        for check, part in ((partial(validate, model), body), (check_params, body.get("params", {}))):
            try:
                check(part)
            except InvalidInput as error:
                faults += [self.located(fault) for fault in error.faults]
        known = {fault.pointer for fault in unreadable}
        faults = unreadable + [fault for fault in faults if fault.pointer not in known]
        if faults:
            raise InvalidInput(faults)
        return body

    def located(self, fault: Fault) -> Fault:
        """A fault of the body as a fault of the fields that it came from."""
        return fault

    def blame(self, faults: Iterable[Fault]) -> None:
        """Put each fault beside its field, or on top when it has none; the first faulty field gets the focus."""
        for fault in faults:
            path = fault.pointer.strip("/").split("/")
            found = self._find(path)
            detail = _capital(fault.detail)
            if found is not None and found.kind == "json" and len(path) > len(found.path):
                detail = f"{'.'.join(path[len(found.path) :])}: {detail}"
            (self.faults if found is None else found.faults).append(detail)
        if first := next((one for one in self.fields.values() if one.faults), None):
            first.focus = True

    def _find(self, path: list[str]) -> Field | None:
        fields = self.fields
        for end in range(len(path), 0, -1):
            name = ".".join(map(escaped, path[:end]))
            if name in fields:
                return fields[name]
        return next(iter(self.sections.get(path[0], [])), None)

    @property
    def wrong(self) -> list[Field]:
        """The fields with faults, for the summary on top."""
        return [one for one in self.fields.values() if one.faults]

    def section_is_open(self, name: str) -> bool:
        """Whether a section that can be folded shows something: a value or a fault."""
        return any(one.shows_something for one in self.sections[name])


def escaped(name: str) -> str:
    """A name that may stand between the dots of a field's name."""
    return name.replace("%", "%25").replace(".", "%2E")


def _put(body: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        body = body.setdefault(part, {})
    body[path[-1]] = value


def _wall_time(value: Any, timezone: str) -> str:
    moment = datetime_of(value if isinstance(value, int) else parse_instant(value)).astimezone(zone(timezone))
    return moment.strftime("%Y-%m-%dT%H:%M:%S" if moment.second else "%Y-%m-%dT%H:%M")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
