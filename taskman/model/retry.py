"""Retry: which failures deserve another attempt, and how long to wait for it. Pure; chance is passed in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from .validation import Duration

__all__ = ["NO_RETRY", "RETRIABLE", "Backoff", "RetryPolicy"]

RETRIABLE = ("error", "exit", "signal", "timeout", "idle_timeout", "lost")


def _check_reasons(reasons: list[str]) -> list[str]:
    for reason in reasons:
        if reason not in RETRIABLE:
            raise ValueError(f"'{reason}' cannot be retried on: use {', '.join(RETRIABLE)}")
    return reasons


class Backoff(BaseModel):
    """How long to wait before each further attempt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["exponential", "fixed", "list"] = "exponential"
    base: Duration = Field(default=1.0, description="the first wait, or every wait of kind fixed")
    cap: Duration = Field(default=300.0, description="the longest wait")
    delays: list[Duration] = Field(default_factory=list, max_length=100, description="the waits of kind list")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.kind == "list") != bool(self.delays):
            raise ValueError("kind 'list' takes 'delays', the other kinds take 'base' and 'cap'")
        return self

    def wait_s(self, failures: int, chance: Callable[[], float]) -> float:
        """Seconds to wait after so many failures (1 or more); `chance` gives a number from 0 to 1.

        Exponential waits are spread over the whole range (full jitter), so that runs which failed together do not
        come back together.
        """
        if self.kind == "list":
            return self.delays[min(failures, len(self.delays)) - 1]
        if self.kind == "fixed":
            return self.base
        return min(self.cap, self.base * 2.0 ** min(failures - 1, 60)) * chance()


class RetryPolicy(BaseModel):
    """Up to `max_attempts` attempts in all, the first included, after failures for one of the reasons in `on`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_attempts: int = Field(default=1, ge=1, le=1000)
    backoff: Backoff = Field(default_factory=lambda: Backoff())
    on: Annotated[list[str], AfterValidator(_check_reasons)] = Field(default=["error", "exit", "timeout"])

    def next_wait_s(self, failures: int, reason: str, chance: Callable[[], float]) -> float | None:
        """Seconds until the next attempt after the `failures`-th failure, or None when there is to be none."""
        if failures >= self.max_attempts or not self._covers(reason):
            return None
        return self.backoff.wait_s(failures, chance)

    def _covers(self, reason: str) -> bool:
        # a signal is how many a process says that it failed, a silent timeout is a timeout
        near = {"signal": "exit", "idle_timeout": "timeout"}
        return reason in self.on or near.get(reason, "") in self.on


NO_RETRY = RetryPolicy()
