"""The Python SDK: a synchronous client of the REST API. Its twin for Trio is taskman.async_client."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast
from uuid import uuid4

from . import dialogue
from .answers import Document, LogLine, Run, Submitted, definition_of
from .dialogue import Ask, Contact, Dialogue, Hear, Listen, Pause, Step, Tell, answer, ask, segment
from .errors import TaskmanError
from .place import place_of
from .transport import Talk, Wire

if TYPE_CHECKING:
    from datetime import datetime

    import httpx2
    from _typeshed import StrPath

__all__ = ["Client", "Document", "LogLine", "Run", "Submitted", "check_health"]

PATIENCE_S = 60.0

Answer = TypeVar("Answer")


class Client:
    """Talks to one server, with one token, over connections that it keeps open until `close`. May be shared by threads.

    `url` and `token` default to the settings, as for the command line: TASKMAN_SERVER, TASKMAN_TOKEN, and what a
    server on this machine has left for its user. So does `ca_file`, of the authorities whose certificates the server
    may have: TASKMAN_CA_FILE, then SSL_CERT_FILE, then the system's.

    `patience_s` is how long `wait` and a followed log bear with a server that has answered and then went away.
    A request whose reply is lost is repeated for some seconds where that can do no harm: when it only looks, and
    when it submits runs, which for that have a key each.

    Raises, besides what each method says: ServerUnreachable when nothing answers (ServerUntrusted, one of its kind,
    when the server's certificate does not pass), Unauthenticated and Forbidden for
    the token, RequestRefused for what has no exception of its own; ConfigError here, when there is no token.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        ca_file: StrPath | None = None,
        agent: str = "taskman-sdk",
        patience_s: float = PATIENCE_S,
    ) -> None:
        import httpx2  # a tenth of a second, which commands that need no server do not pay

        place = place_of(url, token, ca_file)
        self._contact = Contact(patience_s)
        self._wire = Wire(place.url, place.token, agent, self._contact, place.ca_file)
        self._http = httpx2.Client(**self._wire.options())

    @property
    def url(self) -> str:
        """The address of the server."""
        return self._wire.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        json: object = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The document that the server answers with, or None, for what has no method here. `path` is below `/api/v1`.

        Raises: InvalidInput when `json` cannot be written as JSON, and what the answer stands for.
        """
        return self._do(answer(self._contact, ask(method, path, json, params, headers)))

    # runs

    def submit(
        self, type: str, params: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None, **options: Any
    ) -> Run:
        """Ask for a run of a task type; the run that is returned is recorded and will not be lost.

        `options` as in the API: queue, priority, delay, at, timeout, retry, unique …; instants may be `datetime`,
        durations `timedelta`. With an `idempotency_key` of yours, a program that starts again gets the same run.
        Raises: InvalidInput with a pointer to each fault, Conflict for a unique key that is taken, QueueFull.
        """
        return self._submit("/runs", {"type": type, "params": params or {}, **options}, idempotency_key)

    def run_task(
        self, name: str, params: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None, **options: Any
    ) -> Run:
        """Run a saved task now, with `params` merged over its own. Raises as `submit`, and NotFound."""
        body = options if params is None else {"params": params, **options}
        return self._submit(f"/tasks/{segment(name)}/runs", body, idempotency_key)

    def submit_many(self, bodies: Iterable[Mapping[str, Any]]) -> list[Submitted]:
        """Ask for any number of runs, `{"type", "params", …}` each; what became of each, in order.

        Raises ServerUnreachable midway: those before may have been accepted.
        """
        return self._do(dialogue.submit_many(self._contact, bodies))

    def get(self, run_id: str) -> Run:
        """The run as it is now, with its attempts and history in `raw`. Raises NotFound."""
        return Run.of(self.request("GET", f"/runs/{segment(run_id)}"))

    def runs(self, **filters: Any) -> Iterator[Run]:
        """Every run that the filters let through (state, task, worker, since, q …), newest first, page by page."""
        return map(Run.of, self._tell(dialogue.items(self._contact, "/runs", filters)))

    def wait(self, run_id: str, timeout: float | None = None) -> Run:
        """The run once it is final; bears with a server that restarts.

        Raises: WaitTimedOut after `timeout` seconds, NotFound.
        """
        return self._do(dialogue.wait(self._contact, run_id, timeout))

    def cancel(self, run_id: str, *, force: bool = False) -> Run:
        """Ask for the run to be cancelled; with `force`, without a grace time. Raises NotFound, Conflict if final."""
        return Run.of(self.request("POST", f"/runs/{segment(run_id)}/cancel", {"force": True} if force else {}))

    def retry(self, run_id: str, params: Mapping[str, Any] | None = None) -> Run:
        """A new run of the same, or with other params; its `parent` is this one. Raises NotFound, InvalidInput."""
        body = {} if params is None else {"params": params}
        return Run.of(self.request("POST", f"/runs/{segment(run_id)}/retry", body))

    def delete(self, run_id: str) -> None:
        """Forget a run that is over, with its log. Raises NotFound, Conflict if it is not final."""
        self.request("DELETE", f"/runs/{segment(run_id)}")

    def why(self, run_id: str) -> Document:
        """Why the run is not running: `{state, reasons: [{code, detail, since}]}`. Raises NotFound."""
        return cast(Document, self.request("GET", f"/runs/{segment(run_id)}/why"))

    def logs(
        self, run_id: str, *, follow: bool = False, attempt: int | None = None, after: int = 0
    ) -> Iterator[LogLine]:
        """The lines of a log, of the latest attempt unless given, from the line after `after` on.

        With `follow`, until the run is final, and through all attempts from there on unless one is given; through
        restarts of the server, and no line is lost or repeated. Raises NotFound.
        """
        if follow:
            return self._tell(dialogue.follow(self._contact, run_id, attempt, after))
        return self._tell(dialogue.read(dialogue.log_at(run_id, attempt, after)))

    def log_bytes(self, run_id: str, attempt: int | None = None) -> Iterator[bytes]:
        """The exact bytes that an attempt (the latest, unless given) has written. Raises NotFound."""
        return self._tell(dialogue.bytes_of(dialogue.log_at(run_id, attempt, accept="text/plain")))

    # tasks: as documents, so that one can be read, changed and put back

    def tasks(self, **filters: Any) -> Iterator[Document]:
        """Every saved task, page by page."""
        return self._tell(dialogue.items(self._contact, "/tasks", filters))

    def task(self, name: str) -> Document:
        """A saved task. Raises NotFound."""
        return cast(Document, self.request("GET", f"/tasks/{segment(name)}"))

    def create_task(self, body: Mapping[str, Any]) -> Document:
        """Save a new task. Raises InvalidInput, Conflict when the name is taken."""
        return cast(Document, self.request("POST", "/tasks", body))

    def put_task(self, name: str, body: Mapping[str, Any]) -> Document:
        """Save a task, new or in place of the one of that name; `body` as `task` gives it. Raises InvalidInput."""
        return cast(Document, self.request("PUT", f"/tasks/{segment(name)}", definition_of(body)))

    def delete_task(self, name: str) -> None:
        """Delete a task; its runs stay. Raises NotFound."""
        self.request("DELETE", f"/tasks/{segment(name)}")

    # the rest

    def queues(self) -> list[Document]:
        """Every queue with its depth."""
        return list(self._tell(dialogue.items(self._contact, "/queues", {})))

    def pause_queue(self, name: str, *, paused: bool = True) -> Document:
        """Stop or resume claims from a queue; the queue as it is then. Raises NotFound."""
        verb = "pause" if paused else "resume"
        return cast(Document, self.request("POST", f"/queues/{segment(name)}/{verb}"))

    def workers(self) -> list[Document]:
        """The workers that are there."""
        return list(self._tell(dialogue.items(self._contact, "/workers", {})))

    def worker(self, worker_id: str) -> Document:
        """One worker by its id or its name, also one that has gone within a day. Raises NotFound."""
        return cast(Document, self.request("GET", f"/workers/{segment(worker_id)}"))

    def drain_worker(self, worker_id: str, *, draining: bool) -> Document:
        """Let a worker take nothing new, or work on; the worker as it is then. Raises NotFound."""
        verb = "drain" if draining else "resume"
        return cast(Document, self.request("POST", f"/workers/{segment(worker_id)}/{verb}"))

    def next_of(self, name: str, count: int = 10) -> list[Document]:
        """The next due instants of a task: `{at, local, notes, schedule}`. Raises NotFound."""
        found = cast(Document, self.request("GET", f"/tasks/{segment(name)}/next", params={"n": count}))
        return cast(list[Document], found["items"])

    def pause_task(self, name: str, *, paused: bool = True) -> Document:
        """Switch the schedules of a task off or on; the task as it is then. Raises NotFound."""
        verb = "pause" if paused else "resume"
        return cast(Document, self.request("POST", f"/tasks/{segment(name)}/{verb}"))

    def ledger(self, name: str, **filters: Any) -> Iterator[Document]:
        """What became of each due instant of a task, newest first, page by page. Raises NotFound."""
        return self._tell(dialogue.items(self._contact, f"/tasks/{segment(name)}/ledger", filters))

    def skip_next(self, name: str, schedule: int | None = None, at: datetime | str | None = None) -> Document:
        """Let the next due instant of a task pass: `{skipped, schedule, next_at}`; only `at`, if that is given.

        Raises: Conflict when nothing is due, or something else than `at` is.
        """
        body = {name: value for name, value in (("schedule", schedule), ("at", at)) if value is not None}
        return cast(Document, self.request("POST", f"/tasks/{segment(name)}/skip", body))

    def backfill(self, name: str, since: str, to: str, *, dry_run: bool = False) -> Document:
        """Run the past due instants that have had no run; with `dry_run` only count them."""
        body = {"from": since, "to": to, "dry_run": dry_run}
        return cast(Document, self.request("POST", f"/tasks/{segment(name)}/backfill", body))

    def schedules(self, **filters: Any) -> Iterator[Document]:
        """Every schedule that has a next due instant, the earliest first, page by page."""
        return self._tell(dialogue.items(self._contact, "/schedules", filters))

    def tokens(self) -> list[Document]:
        """Every API token, without its secret."""
        return list(self._tell(dialogue.items(self._contact, "/tokens", {})))

    def create_token(self, scope: str, name: str | None = None, expires: object = None) -> Document:
        """Make an API token; `token` in the answer is its secret, which cannot be had again. Raises InvalidInput."""
        wanted = {"scope": scope, "name": name, "expires": expires}
        return cast(Document, self.request("POST", "/tokens", {k: v for k, v in wanted.items() if v is not None}))

    def revoke_token(self, token_id: str) -> None:
        """End an API token, and its sessions. Raises NotFound."""
        self.request("DELETE", f"/tokens/{segment(token_id)}")

    # how a dialogue is had

    def _submit(self, path: str, body: Mapping[str, Any], key: str | None) -> Run:
        return Run.of(self.request("POST", path, body, headers={"Idempotency-Key": key or uuid4().hex}))

    def _do(self, dialogue: Dialogue[Answer]) -> Answer:
        talk = Talk(dialogue)
        for _ in self._steps(talk):
            pass
        return talk.result

    def _tell(self, dialogue: Dialogue[None]) -> Iterator[Any]:
        return self._steps(Talk(dialogue))

    def _steps(self, talk: Talk[Any]) -> Generator[Any, None, None]:
        """Take the steps of a dialogue, and yield what it tells."""
        with _Stream(self._http, self._wire) as stream:
            while (step := talk.step()) is not None:
                if isinstance(step, Tell):
                    yield step.value
                    continue
                try:
                    talk.answer(self._take(step, stream))
                except TaskmanError as error:
                    talk.fail(error)

    def _take(self, step: Step, stream: _Stream) -> Any:
        if isinstance(step, Ask):
            return _ask(self._http, self._wire, step)
        if isinstance(step, Listen):
            return stream.open(step)
        if isinstance(step, Hear):
            return stream.hear()
        assert isinstance(step, Pause)
        return time.sleep(step.seconds)


def check_health(url: str, ca_file: str = "") -> None:
    """Return when a server's process answers at the address; needs no token. Raises ServerUnreachable."""
    import httpx2

    wire = Wire(url, "", "taskman-sdk", Contact(0), ca_file)
    with httpx2.Client(**wire.options()) as http:
        _ask(http, wire, Ask("GET", "/health"))


def _ask(http: httpx2.Client, wire: Wire, step: Ask) -> Any:
    with wire.reaching():
        response = http.send(http.build_request(**wire.request(step)))
    wire.check(response)
    return wire.document(response)


class _Stream:
    """The stream that a dialogue listens to, if any."""

    def __init__(self, http: httpx2.Client, wire: Wire) -> None:
        self._http, self._wire = http, wire
        self._response: httpx2.Response | None = None
        self._chunks: Iterator[bytes] = iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def open(self, step: Listen) -> None:
        self.close()
        with self._wire.reaching():
            request = self._http.build_request(**self._wire.request(step))
            self._response = response = self._http.send(request, stream=True)
            if not response.is_success:
                response.read()
        self._wire.check(response)
        self._chunks = response.iter_bytes()

    def hear(self) -> bytes | None:
        with self._wire.reaching():
            return next(self._chunks, None)

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response, self._chunks = None, iter(())
