"""The Python SDK: a thin synchronous client of the REST API under `/api/v1`.

Answers are the API's documents, as dictionaries. What can go wrong is in `taskman.errors`: ServerUnreachable when
nothing answers, RequestRefused when the server answers with a problem document.
"""

from __future__ import annotations

import json as json_codec
import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import quote

from .config import Config
from .errors import ClientError, ConfigError, RequestRefused, ServerUnreachable
from .model.states import FINAL
from .transport import AWAY, READ_TIMEOUT_S, Transport, checked_url, is_loopback

__all__ = ["Client", "Document", "connect"]

Document = dict[str, Any]

DEFAULT_URL = "http://127.0.0.1:8080"
API = "/api/v1"
WAIT_STEP_S = 30.0
STEADY_S = 10.0


def connect(config: Config) -> Client:
    """A client for the server that the settings name, or for the one that runs on this machine.

    Raises: ConfigError when there is no token, ServerUnreachable when there is no server to need one.
    """
    url = checked_url(config.server or _first_line(config.directory / "server.url") or DEFAULT_URL)
    token = config.token or _token_in_file(config.token_file)
    if not token and is_loopback(url):
        token = _first_line(config.directory / "cli-token")
    if token:
        return Client(url, token, agent="taskman-cli")
    with Client(url) as client:
        client.check_health()
    raise ConfigError(
        f"there is no token for {url}: set TASKMAN_TOKEN to a token of that server, "
        "or run `taskman up` on this machine, as this user"
    )


class Client:
    """Talks to one server, with one token, over connections that it keeps open until `close`.

    `patience_s` is how long `wait` and a followed log bear with a server that has answered and then went away.
    """

    def __init__(self, url: str, token: str = "", *, agent: str = "taskman-client", patience_s: float = 60.0) -> None:
        self._transport = Transport(url, token.strip(), agent)
        self._patience_s = patience_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._transport.close()

    def request(
        self,
        method: str,
        path: str,
        json: object = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The document that the server answers with, or None. `path` is below `/api/v1`.

        Raises: ServerUnreachable, RequestRefused; InvalidInput when `json` cannot be written as JSON.
        """
        return self._transport.request(method, API + path, json, params, headers)

    def check_health(self) -> None:
        """Return when a server's process answers; needs no token. Raises ServerUnreachable, RequestRefused."""
        self._transport.request("GET", "/health")

    # runs

    def submit(self, body: Document, idempotency_key: str | None = None) -> Document:
        """Ask for a run; the run that is returned is recorded and will not be lost."""
        return self._post("/runs", body, idempotency_key)

    def run_task(self, name: str, body: Document, idempotency_key: str | None = None) -> Document:
        """Run a saved task now; `params` in the body are merged over the task's."""
        return self._post(f"/tasks/{_segment(name)}/runs", body, idempotency_key)

    def run(self, run_id: str, wait: float | None = None) -> Document:
        """The run, with its attempts and history; with `wait`, once it is final or so many seconds are over."""
        params = {"wait": None if wait is None else f"{wait:g}"}
        path = f"{API}/runs/{_segment(run_id)}"
        limit_s = READ_TIMEOUT_S + (wait or 0)
        run: Document = self._transport.request("GET", path, params=params, read_timeout_s=limit_s)
        return run

    def runs(self, **filters: Any) -> Iterator[Document]:
        """Every run that the filters let through, newest first, fetched page by page (`limit` a page)."""
        return self._items("/runs", filters)

    def why(self, run_id: str) -> Document:
        """Why the run is not running: `{state, reasons: [{code, detail, since}]}`."""
        return cast(Document, self.request("GET", f"/runs/{_segment(run_id)}/why"))

    def queues(self) -> list[Document]:
        """Every queue with its depth."""
        return list(self._items("/queues", {}))

    def pause_queue(self, name: str, *, paused: bool) -> Document:
        """Stop or resume claims from a queue; the queue as it is then."""
        return cast(Document, self.request("POST", f"/queues/{_segment(name)}/{'pause' if paused else 'resume'}"))

    def workers(self) -> list[Document]:
        """The workers that are there."""
        return list(self._items("/workers", {}))

    def cancel(self, run_id: str, force: bool = False) -> Document | None:
        """Ask for the run to be cancelled; with `force`, without a grace time."""
        answer = self.request("POST", f"/runs/{_segment(run_id)}/cancel", {"force": True} if force else {})
        return answer if isinstance(answer, dict) else None

    def wait(self, run_id: str, timeout_s: float | None = None) -> Document:
        """The run once it is final, or as it is after `timeout_s`; bears with a server that restarts."""
        ends = time.monotonic() + (float("inf") if timeout_s is None else timeout_s)
        patience = self._patience(timeout_s)
        while True:
            left_s = max(0.0, ends - time.monotonic())
            try:
                run = self.run(run_id, wait=min(WAIT_STEP_S, left_s))
            except ClientError as error:
                patience.bear(error)
                continue
            if run["state"] in FINAL or time.monotonic() >= ends:
                return run
            patience.reset()
            time.sleep(min(0.1, left_s))  # a server that shuts down answers early; do not storm it

    def log_lines(
        self, run_id: str, attempt: int | None = None, after: int = 0, follow: bool = False
    ) -> Iterator[Document]:
        """The lines of a log: `{line, at, stream, text, attempt, partial?}`.

        With `follow`, until the run is final: through restarts of the server of up to a minute, and no line is
        lost or repeated. `partial` means that the text did not end with a newline.
        """
        if follow:
            return iter(_Follower(self, run_id, attempt, after))
        return self._read_log(run_id, attempt, after, follow=False)

    def log_text(self, run_id: str, attempt: int | None = None) -> Iterator[bytes]:
        """The exact bytes that an attempt (the latest, unless given) has written."""
        path = f"{API}/runs/{_segment(run_id)}/log"
        with self._transport.stream(path, {"attempt": attempt}, "text/plain", READ_TIMEOUT_S) as chunks:
            yield from chunks

    # tasks

    def tasks(self, **filters: Any) -> Iterator[Document]:
        """Every saved task, fetched page by page."""
        return self._items("/tasks", filters)

    def task(self, name: str) -> Document:
        """A saved task."""
        task: Document = self.request("GET", f"/tasks/{_segment(name)}")
        return task

    def create_task(self, body: Document) -> Document:
        """Save a new task."""
        return self._post("/tasks", body)

    def put_task(self, name: str, body: Document) -> Document:
        """Save a task, new or in place of the one of that name."""
        task: Document = self.request("PUT", f"/tasks/{_segment(name)}", body)
        return task

    def delete_task(self, name: str) -> None:
        """Delete a task."""
        self.request("DELETE", f"/tasks/{_segment(name)}")

    # how the above is asked and read

    def _post(self, path: str, body: Document, idempotency_key: str | None = None) -> Document:
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else None
        document: Document = self.request("POST", path, body, headers=headers)
        return document

    def _items(self, path: str, filters: Mapping[str, Any]) -> Iterator[Document]:
        cursor = None
        while True:
            page = self.request("GET", path, params={**filters, "cursor": cursor})
            yield from page["items"]
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def _read_log(self, run_id: str, attempt: int | None, after: int, *, follow: bool) -> Iterator[Document]:
        params = {"attempt": attempt, "after": after or None, "follow": 1 if follow else None}
        limit_s = None if follow else READ_TIMEOUT_S
        path = f"{API}/runs/{_segment(run_id)}/log"
        with self._transport.stream(path, params, "application/x-ndjson", limit_s) as chunks:
            for text in _split_lines(chunks):
                if text.strip():
                    yield _log_line(text)

    def _patience(self, limit_s: float | None = None) -> _Patience:
        return _Patience(self._transport, min(self._patience_s, float("inf") if limit_s is None else limit_s))


class _Patience:
    """How long to bear with a server that has gone away, asking ever less often.

    It is for a server that has answered before; one that never did is unreachable at once.
    """

    def __init__(self, transport: Transport, limit_s: float) -> None:
        self._transport, self._limit_s = transport, limit_s
        self.reset()

    def reset(self) -> None:
        """The server is there again."""
        self._since: float | None = None
        self._pause_s = 0.1

    def bear(self, error: ClientError) -> None:
        """Sleep before the next try, or raise `error` when it is no absence or lasts too long."""
        away = isinstance(error, ServerUnreachable) or getattr(error, "status", 0) in AWAY
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        limit_s = self._limit_s if self._transport.has_answered else 0.0
        if not away or now - self._since >= limit_s:
            raise error
        time.sleep(self._pause_s * random.uniform(0.5, 1.0))
        self._pause_s = min(self._pause_s * 2, 5.0)


class _Follower:
    """Reads a log until its run is final, through restarts of the server.

    After a break it asks for what follows the last line *of that line's attempt*: the latest attempt may be another
    one by now. The end of a stream is believed only if the run was final before the stream was opened, because a
    server that shuts down ends its streams too, and lines may be written while nobody listens.
    """

    def __init__(self, client: Client, run_id: str, attempt: int | None, after: int) -> None:
        self._client, self._run_id = client, run_id
        self._is_pinned = attempt is not None
        self._attempt, self._after = attempt, after
        self._latest = 0
        self._idle_s = 0.1
        self._patience = client._patience()

    def __iter__(self) -> Iterator[Document]:
        is_over = False
        while True:
            try:
                yield from self._stream(follow=not is_over)
                if is_over and not self._advance():
                    return
                is_over = is_over or self._look_whether_over()
            except ClientError as error:
                self._patience.bear(error)

    def _stream(self, *, follow: bool) -> Iterator[Document]:
        opened = time.monotonic()
        known = (0, 0) if self._attempt is None else (self._attempt, self._after)
        try:
            for line in self._client._read_log(self._run_id, self._attempt, self._after, follow=follow):
                place = line["attempt"], line["line"]
                if place > known:
                    self._attempt, self._after = place
                    self._idle_s = 0.1
                    self._patience.reset()
                    yield line
        finally:
            if follow and time.monotonic() - opened > STEADY_S:
                self._patience.reset()  # it was there, only the task had nothing to say

    def _look_whether_over(self) -> bool:
        run = self._client.run(self._run_id)
        self._latest = run.get("attempt") or 0
        if run["state"] in FINAL or (self._is_pinned and self._has_ended(run)):
            return True
        if not self._advance():
            time.sleep(self._idle_s)  # the next attempt has not begun, or the server is about to go
            self._idle_s = min(self._idle_s * 2, 2.0)
        return False

    def _advance(self) -> bool:
        """Go on to the next attempt, if there is one to be read."""
        if self._is_pinned or self._attempt is None or self._attempt >= self._latest:
            return False
        self._attempt, self._after = self._attempt + 1, 0
        return True

    def _has_ended(self, run: Document) -> bool:
        attempts = run.get("attempts") or []
        return any(a["number"] == self._attempt and a["state"] != "running" for a in attempts)


def _first_line(path: Path) -> str:
    try:
        return path.read_text().strip().partition("\n")[0].strip()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None


def _token_in_file(name: str) -> str:
    if not name:
        return ""
    token = _first_line(Path(name).expanduser())
    if not token:
        raise ConfigError(f"TASKMAN_TOKEN_FILE: {name} does not exist or is empty; write a token into it")
    return token


def _segment(name: str) -> str:
    """A name as one segment of a path, whatever characters it has."""
    if not name.strip("."):
        raise RequestRefused(404, "not_found", f"'{name}' names nothing")
    return quote(name, safe="", errors="replace")


def _split_lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Cut at newlines only: text in JSON may hold other line separators, at which iter_lines would cut."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _log_line(text: bytes) -> Document:
    try:
        line: Document = json_codec.loads(text)
    except ValueError:
        raise ServerUnreachable("the server broke off in the middle of a log line") from None
    return line
