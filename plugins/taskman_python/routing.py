"""What an `async def` callable prints and logs goes to its run, by the context that it runs in."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar, Token
from typing import Any, TextIO

import trio

from taskman import TaskContext

__all__ = ["Capture", "routed"]

TAIL_LIMIT = 16 * 1024
LOG_FORMAT = "%(levelname)s %(name)s: %(message)s"
_capture: ContextVar[Capture | None] = ContextVar("taskman_python_capture", default=None)


class Capture:
    """Takes what is printed within its block, by this task, those it starts, and the threads they wait for."""

    __slots__ = ("_context", "_tails", "_thread", "_token", "_trio")

    def __init__(self, context: TaskContext) -> None:
        self._context = context
        self._tails: dict[str, str] = {}
        self._token: Token[Capture | None] | None = None
        self._trio, self._thread = trio.lowlevel.current_trio_token(), threading.get_ident()

    def __enter__(self) -> Capture:
        self._token = _capture.set(self)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._token is not None:
            _capture.reset(self._token)
        for stream, tail in self._tails.items():
            if tail:
                self._context.log(tail, stream)

    def write(self, stream: str, text: str) -> None:
        """Log whole lines; the beginning of a line waits for its end."""
        if threading.get_ident() != self._thread:
            with contextlib.suppress(trio.RunFinishedError):
                self._trio.run_sync_soon(self.write, stream, text)
            return
        text = self._tails.get(stream, "") + text
        lines, newline, tail = text.rpartition("\n")
        if len(tail) > TAIL_LIMIT:
            lines, newline, tail = text, "\n", ""
        if newline:
            self._context.log(lines + newline, stream)
        self._tails[stream] = tail


@contextlib.contextmanager
def routed() -> Iterator[None]:
    """Have standard output, standard error and `logging` of this process look at who writes."""
    out, err = _Stream(sys.stdout, "out"), _Stream(sys.stderr, "err")
    root, handler = logging.getLogger(), _Handler()
    others = [one for one in root.handlers if not isinstance(one, _Handler)]
    sys.stdout, sys.stderr = out, err
    if len(others) == len(root.handlers):
        root.addHandler(handler)
    for one in others:
        one.addFilter(_is_the_workers)
    try:
        yield
    finally:
        for one in others:
            one.removeFilter(_is_the_workers)
        root.removeHandler(handler)
        if sys.stdout is out:
            sys.stdout = out.real
        if sys.stderr is err:
            sys.stderr = err.real


class _Stream:
    """Stands for a standard stream: hands what a callable writes to its run, and all else to the real one."""

    def __init__(self, real: TextIO, name: str) -> None:
        self.real, self._name = real, name

    def write(self, text: str) -> int:
        capture = _capture.get()
        if capture is None:
            return self.real.write(text)
        capture.write(self._name, text)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class _Handler(logging.Handler):
    """Hands what a callable logs to its run."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(LOG_FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        capture = _capture.get()
        if capture is not None and not _is_ours(record):
            capture.write("err", self.format(record) + "\n")


def _is_the_workers(record: logging.LogRecord) -> bool:
    return _capture.get() is None or _is_ours(record)


def _is_ours(record: logging.LogRecord) -> bool:
    """What Taskman logs on behalf of a run, such as about its log, must not become a part of that log."""
    return record.name.partition(".")[0] == "taskman"
