"""The `http` task type: one request to a web address, within the network policy of the worker."""

from __future__ import annotations

import os
from typing import Any

from taskman import RetryAfter, TaskContext, TaskFailed, TaskType, hookimpl

from .answer import Answer
from .exchange import ask
from .params import HttpParams
from .policy import Policy, policy_of

__all__ = ["Http", "HttpParams", "Policy"]

_LATER = frozenset({429, 503})


class Http(TaskType):
    """Sends a request and judges the status of the answer; follows redirects as far as the policy lets it."""

    name = "http"
    version = "1.0"
    description = "Sends an HTTP request."
    Params = HttpParams

    def __init__(self, policy: Policy | None = None) -> None:
        """`policy` says where requests may go; by default the worker's settings do."""
        self._policy = policy

    async def run(self, context: TaskContext, params: HttpParams) -> dict[str, Any]:
        """The status, the headers and the beginning of the body of the last answer.

        Cancellation: the connection is closed at once. Raises: Fatal when the policy refuses the address,
        RetryAfter when the server names a time, TaskFailed for everything else.
        """
        policy = self._policy or policy_of(os.environ)
        answer = await ask(params, policy, lambda text: context.log(text, "sys"))
        return _judge(answer, params)


def _judge(answer: Answer, params: HttpParams) -> dict[str, Any]:
    result = answer.result(params.keep_body)
    if answer.problem is None and params.expects(answer.status):
        return result
    message = answer.problem or f"the answer is {answer.title}, expected was {', '.join(params.expected_status)}"
    wait_s = answer.retry_after_s
    if answer.status in _LATER and wait_s is not None:
        raise RetryAfter(wait_s, f"{message}; the server asks to come back after {wait_s:g} s", result)
    raise TaskFailed("error", message, result)


@hookimpl
def taskman_task_types() -> list[TaskType]:
    """The one type of this plugin."""
    return [Http()]
