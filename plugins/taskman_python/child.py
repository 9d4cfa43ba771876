"""The process that calls functions for a worker, one at a time: `python -P child.py`.

Its standard input is one end of a Unix stream socket, on which messages (`frames.py`) come and go:

    worker -> child   {path, patterns}                                     once, first
                      {callable, args, kwargs, run, env}                   a call
    child -> worker   {kind: "ready"}                                      once
                      {kind: "log", text, stream} {kind: "progress", …}    while a call is on
                      {kind: "async"}                                      the callable is not for a child
                      a verdict (`verdicts.py`), with `rss` and `last`     the call is over

Standard output and error are pipes: whatever a function, or a process that it starts, writes is the run's log. All
that the function itself has written is in the pipes before the verdict is sent.

SIGTERM raises SystemExit in the function, once, so that it can clean up. With `last`, the child ends by itself: it
was told to, or the call has left threads or processes behind, and the worker's shim ends those.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import inspect
import io
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taskman import use_context
from taskman_python.finding import find
from taskman_python.frames import Frames, Message, pack
from taskman_python.verdicts import judge, why_arguments_do_not_fit

RESULT_LIMIT = 1024 * 1024
REMEMBERED = 1000
PR_SET_CHILD_SUBREAPER = 36
LOG_FORMAT = "%(levelname)s %(name)s: %(message)s"


class Context:
    """The run that a function is called for, as `taskman.current()` shows it: a TaskContext without `await`."""

    def __init__(self, run: Message, send: Callable[[Message], None]) -> None:
        self.run_id: str = run["run_id"]
        self.attempt: int = run["attempt"]
        self.task: str | None = run["task"]
        self.fire_time: str | None = run["fire_time"]
        self.worker: str = run["worker"]
        self.env: dict[str, str] = run["env"]
        self.grace_s: float = run["grace_s"]
        self._send = send

    def log(self, text: str, stream: str = "out") -> None:
        """Append `text` to the run's log as one or more lines; `stream` is out, err or sys."""
        if stream in ("out", "err"):
            print(text.removesuffix("\n"), file=sys.stdout if stream == "out" else sys.stderr)
        elif stream == "sys":
            self._send({"kind": "log", "text": text, "stream": stream})
        else:
            raise ValueError(f"there is no log stream '{stream}': use out, err or sys")

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the work has come."""
        self._send({"kind": "progress", "done": done, "total": total, "message": message})


class Child:
    """Calls functions as the worker asks, until that closes its end."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._frames = Frames()
        self._waiting: list[Message] = []
        self._patterns: list[str] = []
        self._known: dict[str, Callable[..., Any]] = {}
        self._is_interruptible, self._is_calling = True, False
        self._must_end = False
        self._sending = threading.Lock()
        self._libc = ctypes.CDLL(None)
        self._libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # so that even an orphan is known as left behind
        self._streams = sys.stdout, sys.stderr
        self._home = Path.cwd()

    def serve(self) -> None:
        """Take the first message, then call after call."""
        signal.signal(signal.SIGTERM, self._terminate)
        setup = self._receive()
        if setup is None:
            return
        sys.path[:] = setup["path"]
        self._patterns = setup["patterns"]
        self._send({"kind": "ready"})
        while not self._must_end and (message := self._receive()) is not None:
            self._is_interruptible = False
            self._answer(message)
            self._is_interruptible = not self._must_end

    def _terminate(self, *_: object) -> None:
        if self._must_end:
            return  # the function is cleaning up
        self._must_end = True
        if self._is_interruptible:
            raise SystemExit("the run was stopped" if self._is_calling else 0)

    def _receive(self) -> Message | None:
        while not self._waiting:
            data = self._channel.recv(1 << 16)
            if not data:
                return None
            self._waiting += self._frames.feed(data)
        return self._waiting.pop(0)

    def _send(self, message: Message) -> None:
        data = pack(message)
        with self._sending:  # a function may report from several threads
            self._channel.sendall(data)

    def _answer(self, message: Message) -> None:
        threads = threading.active_count()
        before = self._dress(message["env"])
        try:
            verdict = self._call(message)
        except BaseException as error:
            verdict = judge(error, self._log_traceback)
        finally:
            self._undress(before)
        last = self._has_leftovers(threads) or not self._flush() or self._must_end
        self._deliver({**verdict, "rss": resident_bytes(), "last": last})
        if last:
            os._exit(0)  # the usual way would wait for threads

    def _call(self, message: Message) -> Message:
        context = Context(message["run"], self._send)
        with use_context(context, everywhere=True):
            self._is_interruptible = self._is_calling = True
            try:
                if self._must_end:  # told so just before
                    raise SystemExit("the run was stopped")
                function = self._find(message["callable"])
                if is_async(function):
                    return {"kind": "async"}
                value = function(*message["args"], **message["kwargs"])
            except TypeError as error:
                if refused := self._why(message, error):
                    raise refused from None
                raise
            finally:
                self._is_interruptible = self._is_calling = False
        if inspect.iscoroutine(value):
            value.close()
            raise TypeError("the function returned a coroutine: define it with `async def`")
        return {"kind": "result", "value": value}

    def _why(self, message: Message, error: TypeError) -> Exception | None:
        function = self._known.get(message["callable"])
        return why_arguments_do_not_fit(function, error, message) if function else None

    def _find(self, name: str) -> Callable[..., Any]:
        function = self._known.get(name)
        if function is None:
            function = find(name, self._patterns)
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[name] = function
        return function

    def _dress(self, env: dict[str, str]) -> dict[str, str | None]:
        before = {name: os.environ.get(name) for name in env}
        os.environ.update(env)
        return before

    def _undress(self, before: dict[str, str | None]) -> None:
        for name, value in before.items():
            if value is not None:
                os.environ[name] = value
            elif name in os.environ:
                del os.environ[name]
        os.chdir(self._home)

    def _log_traceback(self, text: str) -> None:
        self._flush()
        with contextlib.suppress(OSError, ValueError):  # the function may have closed it
            sys.stderr.write(text)

    def _flush(self) -> bool:
        """Bring all output on its way; False when a stream cannot be used any more."""
        try:
            for stream in (sys.stdout, sys.stderr, *self._streams):
                stream.flush()
        except (OSError, ValueError, AttributeError):
            return False
        finally:
            sys.stdout, sys.stderr = self._streams
        self._libc.fflush(None)
        return True

    def _has_leftovers(self, threads: int) -> bool:
        """Whether the call has left behind threads that would go on, or processes."""
        if threading.active_count() > threads and any(not one.daemon for one in threading.enumerate()[1:]):
            return True
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:  # who is dead is no leftover
                continue
        except ChildProcessError:
            return False
        return True

    def _deliver(self, verdict: Message) -> None:
        try:
            data = pack(verdict)
        except (TypeError, ValueError, RecursionError) as error:
            text = f"the result cannot be written as JSON: {error}"
            data = pack({**verdict, "kind": "error", "message": text, "value": None, "result": None})
        if len(data) > RESULT_LIMIT + 200:
            text = f"the result has {len(data):,} bytes as JSON: at most {RESULT_LIMIT:,} are kept"
            data = pack({**verdict, "kind": "error", "message": text, "value": None, "result": None})
        self._channel.sendall(data)


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine."""
    is_plain = inspect.isroutine(function) or isinstance(function, (functools.partial, type))
    return inspect.iscoroutinefunction(function if is_plain else type(function).__call__)


def resident_bytes() -> int:
    """The memory that this process has in use; 0 where the system does not tell."""
    try:
        return int(os.pread(_STATM, 100, 0).split()[1]) * _PAGE
    except OSError:
        return 0


def main() -> None:
    """Set up the streams, the log and the channel, and serve."""
    channel = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    logging.basicConfig(level=logging.INFO, handlers=[StderrHandler()], format=LOG_FORMAT)
    Child(channel).serve()


class StderrHandler(logging.StreamHandler[Any]):
    """Writes to whatever standard error is at the time."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        """It cannot be set."""


_PAGE = os.sysconf("SC_PAGE_SIZE")
_STATM = os.open("/proc/self/statm", os.O_RDONLY) if os.path.exists("/proc/self/statm") else -1

if __name__ == "__main__":
    main()
