"""A run as the oracle knows it."""

from __future__ import annotations

from dataclasses import dataclass, field

from taskman.model.run import RunSpec
from taskman.model.states import FINAL, State

HELD = (State.RUNNING, State.CANCELLING)
WAITING = (State.SCHEDULED, State.QUEUED, State.BLOCKED)


@dataclass(slots=True, eq=False)
class OracleRun:
    """A run. `score` is its place among the ready or in a line; `start_by` and `end_by` are its deadlines."""

    id: str
    spec: RunSpec
    due: int
    state: State = State.QUEUED
    attempt: int = 0
    worker: str | None = None
    history: str = ""
    score: int = 0
    waits_for: str = ""
    lease_end: int = 0
    suspect: bool = False
    ending: str = ""
    failures: int | None = None
    lost: int | None = None
    start_by: int | None = None
    end_by: int | None = None
    result: str = ""
    error: str = ""
    progress: str | None = None
    log_weight: int | None = None
    children: list[str] = field(default_factory=list)
    results: dict[int, str] = field(default_factory=dict)
    sig: str = ""
    document: str = ""
    options: str = ""

    def __post_init__(self) -> None:
        self.sig, self.document = self.spec.signature, self.spec.to_document().decode()
        self.options = self.spec.script_options

    @property
    def holds(self) -> bool:
        return self.state in HELD

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    @property
    def task(self) -> str:
        """The task that counts it; for a child, its parent is counted."""
        return "" if self.spec.is_child else self.spec.task or ""

    @property
    def is_placed(self) -> bool:
        return self.spec.place == "all"

    @property
    def unique(self) -> tuple[str, str]:
        """Digest and duration of its unique key, both empty without one."""
        digest, _, lasts = (self.spec.unique or "").partition(":")
        return digest, lasts
