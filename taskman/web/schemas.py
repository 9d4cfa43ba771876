"""From a JSON Schema to the fields of a form, so that a plugin's type gets one by itself.

What has no field of its own kind becomes a field of JSON, with an example of its shape.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .forms import Field, escaped, shown

__all__ = ["fields_of"]

_MULTI_LINE = frozenset({"command", "stdin", "body", "script", "query", "text"})
_SCALARS = {"boolean": "flag", "integer": "number", "number": "number"}
_FORMATS = {"date": "date", "password": "secret", "multi-line": "text"}
_HINTS = {
    "list": "one a line",
    "numbers": "one a line",
    "map": "KEY=value, one a line",
    "json": "JSON",
    "duration": "such as 90s or 5m",
}
_EXAMPLES = {"date-time": "2026-12-01T09:00:00+01:00", "time": "09:00", "duration": "PT5M"}
_DEEPEST = 4

Schema = Mapping[str, Any]


def fields_of(schema: Schema, prefix: str) -> list[Field]:
    """A field for each property of the schema of an object, in order."""
    definitions = schema.get("$defs", {})
    whole = _plain(schema, definitions)
    required = whole.get("required", ())
    return [
        _field(prefix, name, part, definitions, name in required) for name, part in whole.get("properties", {}).items()
    ]


def _plain(part: Schema, definitions: Schema) -> dict[str, Any]:
    """The schema with its reference followed, and without the null of an optional."""
    found = dict(part)
    for name in ("anyOf", "allOf"):
        options = [one for one in found.get(name, ()) if one.get("type") != "null"]
        if len(options) == 1:
            del found[name]
            found = {**options[0], **found}
    if "$ref" in found:
        target = definitions.get(found.pop("$ref").rpartition("/")[2], {})
        return {**_plain(target, definitions), **found}
    return found


def _field(prefix: str, name: str, part: Schema, definitions: Schema, required: bool) -> Field:
    plain = _plain(part, definitions)
    values = _values(part, plain)
    kind = "choice" if values else _kind(name, plain, definitions)
    default = plain.get("default")
    made = Field(
        name=prefix + escaped(name),
        label=plain.get("title") or name,
        kind=kind,
        help="; ".join(hint for hint in (plain.get("description", ""), _range(plain), _HINTS.get(kind, "")) if hint),
        required=required,
        choices=[(text, text) for text in values],
        values=values,
        example=_example(kind, plain, definitions),
    )
    if default is not None and kind != "secret" and not (kind == "json" and default in ([], {})):
        text = made.text_of(default)
        if kind in ("flag", "choice", "date"):
            made.value = made.preset = text
        else:
            made.default = text
    return made


def _values(part: Schema, plain: Schema) -> dict[str, Any]:
    """What can be chosen, by how it is shown."""
    if "const" in plain:
        meant = [plain["const"]]
    elif "enum" in plain:
        meant = [one for one in plain["enum"] if one is not None]
    elif plain.get("type") == "boolean" and any(one.get("type") == "null" for one in part.get("anyOf", ())):
        return {"yes": True, "no": False}
    else:
        return {}
    return {one if isinstance(one, str) else json.dumps(one): one for one in meant}


def _kind(name: str, part: Schema, definitions: Schema) -> str:
    shape = part.get("type")
    if shape == "string":
        kind = _FORMATS.get(part.get("format", ""), "line")
        is_long = name in _MULTI_LINE or "\n" in str(part.get("default") or "")
        return "text" if kind == "line" and is_long else kind
    if shape == "array" and "prefixItems" not in part:
        inner = part.get("items")
        found = _plain(inner, definitions).get("type") if isinstance(inner, Mapping) else None
        return {"string": "list", "integer": "numbers", "number": "numbers"}.get(str(found), "json")
    if shape == "object" and part.get("additionalProperties") == {"type": "string"}:
        return "map"
    if shape is None and part.get("format") == "duration":
        return "duration"
    if shape is None:
        return _kind_of_union([_plain(one, definitions) for one in part.get("anyOf", ())])
    return _SCALARS.get(str(shape), "json")


def _kind_of_union(options: list[dict[str, Any]]) -> str:
    """One line for numbers, texts and truths; what only a model can tell apart is JSON."""
    shapes = {str(one.get("type")) for one in options if one.get("type") != "null"}
    if not shapes or shapes - {"string", "integer", "number", "boolean"} or any("enum" in one for one in options):
        return "json"
    if shapes == {"string"}:
        return "line"
    return "either" if shapes & {"string", "boolean"} else "number"


def _range(part: Schema) -> str:
    """The bounds of a number in words."""
    least, most = part.get("minimum"), part.get("maximum")
    if least is not None and most is not None:
        return f"{least:g} to {most:g}"
    if least is not None:
        return f"{least:g} or more"
    return f"{most:g} or less" if most is not None else ""


def _example(kind: str, part: Schema, definitions: Schema) -> str:
    if examples := part.get("examples"):
        return shown(kind, examples[0])
    if kind == "json":
        model = _skeleton(part, definitions, 0)
        return json.dumps(model, ensure_ascii=False, indent=2) if model not in (None, {}, []) else ""
    return _EXAMPLES.get(part.get("format", ""), "")


def _skeleton(part: Schema, definitions: Schema, depth: int) -> Any:
    """The shape of a value, to be filled in."""
    plain = _plain(part, definitions)
    if "default" in plain and depth:
        return plain["default"]
    for name in ("oneOf", "anyOf"):
        if name in plain:
            plain = _plain(plain[name][0], definitions)
    if "const" in plain or "enum" in plain:
        return plain.get("const", plain.get("enum", [None])[0])
    if depth == _DEEPEST:
        return None
    if plain.get("type") == "array":
        parts = plain.get("prefixItems") or [plain.get("items")]
        return [_skeleton(one, definitions, depth + 1) for one in parts if isinstance(one, Mapping) and one]
    if plain.get("type") == "object":
        return {name: _skeleton(one, definitions, depth + 1) for name, one in plain.get("properties", {}).items()}
    return {"string": "…", "integer": 0, "number": 0, "boolean": False}.get(str(plain.get("type")))
