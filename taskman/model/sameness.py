"""What makes two runs the same: unique keys, concurrency keys, and the little templates that they are written in."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ..errors import InvalidInput
from .instants import parse_duration

__all__ = ["Unique", "compact", "digest_of", "render"]

_SLOT = re.compile(r"\{\{\s*([A-Za-z0-9_.-]+)\s*\}\}")
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,64}")


def _check_while(value: str) -> str:
    if value not in ("pending", "active") and parse_duration(value) <= 0:
        raise ValueError("use 'pending', 'active', or a period such as '10m'")
    return value


class Unique(BaseModel):
    """A run is the same as another of its task (or type) whose key reads the same, for as long as `while` says."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    key: str | None = Field(
        None, max_length=500, description="a template such as {{ params.customer }}; default: all params"
    )
    while_: Annotated[str, AfterValidator(_check_while)] = Field(
        "active", alias="while", description="pending, active, or a period"
    )
    on_conflict: Literal["reject", "return"] = Field(
        "reject", description="refuse the new run, or answer with the old one"
    )

    def word(self, scope: str, params: Mapping[str, Any]) -> str:
        """How the scripts are told: `digest:pending`, `digest:active` or `digest:milliseconds`."""
        text = (
            json.dumps(params, sort_keys=True) if self.key is None else render(self.key, scope, params, "/unique/key")
        )
        lasts = self.while_ if self.while_ in ("pending", "active") else f"{parse_duration(self.while_) * 1000:.0f}"
        return f"{digest_of(scope, text)}:{lasts}"


def render(template: str, task: str, params: Mapping[str, Any], pointer: str) -> str:
    """Fill `{{ task }}` and `{{ params.a.b }}` into a template. Raises InvalidInput for a name that is not there."""

    def fill(slot: re.Match[str]) -> str:
        value: Any = {"task": task, "params": params}
        for part in slot[1].split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise InvalidInput(f"the template names '{slot[1]}', which this run does not have", pointer)
            value = value[part]
        return value if isinstance(value, str) else json.dumps(value, sort_keys=True)

    return _SLOT.sub(fill, template)


def compact(text: str) -> str:
    """`text` itself where it can be part of a key, else its digest."""
    return text if _PLAIN.fullmatch(text) else digest_of(text)


def digest_of(*parts: str | bytes) -> str:
    """A digest of the parts, in hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8) + data)
    return digest.hexdigest()
