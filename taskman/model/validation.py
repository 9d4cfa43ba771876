"""Turning pydantic's complaints into faults: a pointer, and a sentence that names the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from ..errors import Fault, InvalidInput, nearest
from .instants import parse_duration, parse_instant

__all__ = ["Duration", "Instant", "faults_of", "validate"]

Duration = Annotated[
    float,
    BeforeValidator(parse_duration, json_schema_input_type=float | str),
    Field(json_schema_extra={"format": "duration"}),  # how a form knows it from a number
]
Instant = Annotated[int, BeforeValidator(parse_instant, json_schema_input_type=str)]
Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], data: object, prefix: str = "") -> Model:
    """An instance of `model`. Raises InvalidInput with every fault at once, their pointers below `prefix`."""
    if not isinstance(data, Mapping):
        raise InvalidInput("send a JSON object", prefix)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise InvalidInput(faults_of(error, model, prefix)) from None


def faults_of(error: ValidationError, model: type[BaseModel], prefix: str = "") -> list[Fault]:
    """One fault for each complaint, in the order of the fields."""
    return [
        Fault(prefix + _pointer(one["loc"]), _sentence(dict(one), model)) for one in error.errors(include_url=False)
    ]


def _pointer(location: tuple[int | str, ...]) -> str:
    """A branch of a union is tagged with a name such as `|delay`, which is no part of the document."""
    places = (str(part) for part in location if not str(part).startswith("|"))
    return "".join("/" + place.replace("~", "~0").replace("/", "~1") for place in places)


def _sentence(one: dict[str, Any], model: type[BaseModel]) -> str:
    kind, name = one["type"], str(one["loc"][-1]) if one["loc"] else ""
    if kind == "missing":
        return f"'{name}' is required"
    if kind == "extra_forbidden":
        return f"there is no field '{name}'{nearest(name, model.model_fields)}"
    message: str = one["msg"]
    return message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
