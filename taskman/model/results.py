"""What a task leaves behind, as it can be kept: results that are JSON, messages that are text."""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["ERROR_LIMIT", "RESULT_LIMIT", "is_reason", "told", "why_not_kept"]

RESULT_LIMIT = 1024 * 1024
ERROR_LIMIT = 16 * 1024
_REASON = re.compile(r"[a-z][a-z0-9_]{0,39}")


def is_reason(reason: object) -> bool:
    """Whether it can stand in a history as the reason for a change: a word such as `exit` or `not_ready`."""
    return isinstance(reason, str) and _REASON.fullmatch(reason) is not None


def why_not_kept(result: Any) -> str | None:
    """Why a result cannot be kept, to follow the words "the result"; None when it can."""
    try:
        size = len(json.dumps(result, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        return f"cannot be written as JSON: {error}"
    if size > RESULT_LIMIT:
        return f"has {size:,} bytes as JSON: at most {RESULT_LIMIT:,} are kept"
    return None


def told(error: BaseException) -> str:
    """What an exception says; of a long story the beginning. Never raises, whatever a stranger's exception does."""
    try:
        text = str(error)
    except Exception:
        return "(its message cannot be read)"
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= ERROR_LIMIT else f"{text[:ERROR_LIMIT]}…"
