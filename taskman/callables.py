"""Python callables as tasks: what marks them (`task`), and what they see while they run (`current`).

Light on purpose: every process that executes callables imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast, overload

from .errors import ConfigError, InvalidInput

if TYPE_CHECKING:
    from .answers import Run

__all__ = ["Submittable", "current", "task", "use_context"]

MARK = "__taskman_task__"

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
_context: ContextVar[Any] = ContextVar("taskman_context")
_everywhere: list[Any] = []  # the context of a process that executes one run at a time


class Submittable(Protocol[P, R_co]):
    """A callable that is marked as a task: it is called as ever, and can be submitted."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call it here and now."""

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Run:
        """Ask the server for a run of it with these arguments, which must be JSON; the run as recorded.

        The server and the token are TASKMAN_SERVER and TASKMAN_TOKEN, or this machine's.
        Raises: ConfigError when there is no token, and as `Client.submit` does.
        """


@overload
def task(function: Callable[P, R_co], /) -> Submittable[P, R_co]: ...


@overload
def task(
    *, retry: Mapping[str, Any] | None = None, timeout: str | float | None = None, **options: Any
) -> Callable[[Callable[P, R_co]], Submittable[P, R_co]]: ...


def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    retry: Mapping[str, Any] | None = None,
    timeout: str | float | None = None,
    **options: Any,
) -> Any:
    """Mark a function as one that workers may run, and give it `submit`.

    `retry`, `timeout` and any other option that a run has in the API (`queue`, `priority`, ...) hold for the runs
    that `submit` asks for. The function itself stays as it is.
    Raises: TypeError for what is no function.
    """
    given = {"retry": retry, "timeout": timeout, **options}
    chosen = {name: value for name, value in given.items() if value is not None}
    if function is None:
        return partial(_mark, options=chosen)
    return _mark(function, chosen)


def _mark(function: Any, options: dict[str, Any]) -> Any:
    if isinstance(function, (staticmethod, classmethod)):
        raise TypeError(f"write @task below @{type(function).__name__}, next to the function")
    if not callable(function):
        raise TypeError(f"@task marks functions, not {function!r}; options are given by name, as in @task(timeout=60)")
    setattr(function, MARK, options)
    function.submit = partial(_submit, function)
    return function


def _submit(function: Any, /, *args: Any, **kwargs: Any) -> Run:
    if is_inside_a_run() and (trio := sys.modules.get("trio")) and trio.lowlevel.in_trio_task():
        raise RuntimeError(
            "submit() would hold up the whole worker: call it in a thread, as in "
            "`await trio.to_thread.run_sync(functools.partial(send.submit, 1))`"
        )
    params = {"callable": name_of(function), "args": list(args), "kwargs": kwargs}
    # By name, because importing an HTTP client takes longer than most functions, and few of them submit anything.
    with import_module("taskman.client").Client() as client:
        return cast("Run", client.submit("python", params, **getattr(function, MARK)))


def name_of(function: Any) -> str:
    """`module:name`, under which a worker finds the function. Raises ConfigError for what no worker could import."""
    module, path = function.__module__, function.__qualname__
    if module == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        module = spec.name.removesuffix(".__main__") if spec else ""
    if not module:
        raise ConfigError(f"'{path}' is defined in the program that was started: move it into a module to submit it")
    if "<" in path:
        raise InvalidInput(f"'{path}' is defined inside a function: move it to the top of its module to submit it")
    return f"{module}:{path}"


def current() -> Any:
    """The context of the run that this code is part of: a TaskContext.

    In a function that is no `async def`, its `progress` is no coroutine either. Raises RuntimeError outside a run.
    """
    try:
        return _context.get()
    except LookupError:
        if _everywhere:
            return _everywhere[-1]
    raise RuntimeError("taskman.current() is for code that a run calls: there is no run here")


def is_inside_a_run() -> bool:
    """Whether `current` has an answer."""
    return bool(_everywhere) or _context.get(None) is not None


class use_context:
    """Within this block, `current()` answers with `context`. For task types that call other people's code.

    With `everywhere`, in all threads: for a process that executes one run at a time.
    """

    def __init__(self, context: Any, *, everywhere: bool = False) -> None:
        self._context, self._is_everywhere = context, everywhere
        self._token: Token[Any] | None = None

    def __enter__(self) -> None:
        self._token = _context.set(self._context)
        if self._is_everywhere:
            _everywhere.append(self._context)

    def __exit__(self, *exception: object) -> None:
        if self._token is not None:
            _context.reset(self._token)
        if self._is_everywhere:
            _everywhere.pop()
