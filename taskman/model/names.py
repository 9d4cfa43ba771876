"""Names as people give them to tasks, queues and limits."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

__all__ = ["Name", "check_name"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(name: str) -> str:
    """The name, if it can be one. Raises ValueError with the remedy."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"'{name}' cannot be a name: start with a letter or digit, then letters, digits, '.', '_' or '-', "
            "at most 100 characters"
        )
    return name


Name = Annotated[str, AfterValidator(check_name)]
