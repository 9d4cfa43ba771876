"""Reading a run's log from any line on, and following it while it grows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import trio

from ..errors import NotFound, StoreUnavailable
from ..model.loglines import LogLine, split_lines
from ..model.run import Run
from ..store.logs import Chunk
from ..store.pubsub import GAP, Message, Subscription
from ..store.store import Store
from .auth import RECHECK_S, Rights
from .drain import Drain
from .holes import Hole, Trail
from .sse import encode
from .streaming import StreamBody

__all__ = ["LogBody", "LogEvents", "LogReader", "Position", "as_bytes", "as_events", "as_ndjson", "lines_of"]

_CHUNKS = 64
_RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a log: after this line of this attempt."""

    attempt: int
    line: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """Some chunks of one attempt, and the line that the reader has seen already."""

    attempt: int
    chunks: list[Chunk]
    after: int


class LogReader:
    """Yields a run's log in parts, in order, without a repeat; where something was left out, a Hole says how much.

    With `follow` it goes on until the run is final, also into later attempts; leave it by `close`.
    """

    def __init__(self, store: Store, run: Run, start: Position, *, follow: bool) -> None:
        self._store, self._run_id, self._follow = store, run.id, follow
        self._attempt, self._after = start.attempt, start.line
        self._latest = run.attempt
        self._seq = 0
        self._final = run.is_final
        self._located = start.line == 0
        self._trail: Trail | None = Trail()  # None: the chunk before the next one was not read
        self._hints: Subscription | None = None

    async def open(self) -> LogReader:
        """Subscribe to what is to come. Raises StoreUnavailable."""
        if self._follow and not self._final:
            channel = self._store.logs.channel(self._run_id)
            self._hints = await self._store.pubsub.join(channel)
            await self._look()
        return self

    def close(self) -> None:
        """Unsubscribe. Safe to repeat."""
        if self._hints is not None:
            self._hints.leave()

    async def receive(self) -> Part:
        """The next part. Cancellation loses nothing. Raises trio.EndOfChannel at the end."""
        while True:
            try:
                part = await self._read()
            except StoreUnavailable:
                if not self._follow:
                    raise
                await trio.sleep(_RETRY_S)
                continue
            if part is not None:
                return part
            if self._follow and self._attempt < self._latest:
                self._attempt, self._seq, self._after, self._trail = self._attempt + 1, 0, 0, Trail()
            elif self._hints is None or self._final:
                raise trio.EndOfChannel
            else:
                await self._wait(self._hints)

    async def _read(self) -> Part | None:
        while True:
            if not self._located:
                await self._locate()
            chunks = await self._store.logs.read(self._run_id, self._attempt, self._seq, _CHUNKS)
            if not chunks:
                return await self._read_end()
            if self._trail is None and chunks[0].first_line > self._after + 1:
                self._located = False  # what was found has been cut out since; the end of the first quarter stays
                continue
            part = self._take(chunks)
            if any(line.line > self._after for line in split_chunk(part.chunks[-1])):
                return part

    async def _locate(self) -> None:
        self._seq = await self._store.logs.seq_before_line(self._run_id, self._attempt, self._after + 1)
        self._trail = Trail() if self._seq == 0 else None
        self._located = True

    def _take(self, chunks: list[Chunk]) -> Part:
        if self._trail is None:
            self._trail = Trail.before(chunks[0])
        self._seq = chunks[-1].seq
        return Part(self._attempt, self._trail.follow(chunks), self._after)

    async def _read_end(self) -> Part | None:
        """The hole at the end of an attempt, which only later attempts can have made."""
        if self._trail is None or self._attempt >= self._latest:
            return None
        end = await self._store.logs.end_of(self._run_id, self._attempt)
        holes = self._trail.follow_to(end) if end else []
        return Part(self._attempt, holes, self._after) if holes and holes[0].first_line > self._after else None

    async def _wait(self, hints: Subscription) -> None:
        """Until there may be more; hints of what has been read already are passed over."""
        async for hint in hints:
            if hint is GAP:
                await self._look()
                return
            if isinstance(hint, Message) and self._is_news(hint.payload.decode()):
                return
        self._final = True

    def _is_news(self, hint: str) -> bool:
        if hint == "end":
            self._final = True
            return True
        attempt, _, seq = hint.partition("-")
        self._latest = max(self._latest, int(attempt))
        return (int(attempt), int(seq)) > (self._attempt, self._seq)

    async def _look(self) -> None:
        try:
            run = await self._store.runs.get(self._run_id)
        except StoreUnavailable:
            return  # the next hint or gap tells
        except NotFound:
            self._final = True  # final long ago, and forgotten meanwhile
            return
        self._latest, self._final = run.attempt, run.is_final


def split_chunk(chunk: Chunk) -> Iterator[LogLine]:
    """The lines of a chunk."""
    lines = split_lines(chunk.first_line, chunk.at_ms, chunk.stream, chunk.data)
    return (replace(line, missing=chunk.missing) for line in lines) if isinstance(chunk, Hole) else lines


def lines_of(part: Part) -> Iterable[LogLine]:
    """The lines of a part that the reader has not seen."""
    return (line for chunk in part.chunks for line in split_chunk(chunk) if line.line > part.after)


def as_bytes(part: Part) -> bytes:
    """The output exactly as it came; a Hole is a line of its own."""
    return b"".join(_raw(chunk, part.after) for chunk in part.chunks)


def _raw(chunk: Chunk, after: int) -> bytes:
    if chunk.first_line > after:
        return b"\n" + chunk.data if isinstance(chunk, Hole) and chunk.breaks else chunk.data
    seen = (line for line in split_chunk(chunk) if line.line > after)
    return b"".join(line.data + (b"" if line.partial else b"\n") for line in seen)


def as_ndjson(part: Part) -> bytes:
    """One JSON object a line."""
    return b"".join(
        json.dumps(line.to_json(part.attempt), ensure_ascii=False).encode() + b"\n" for line in lines_of(part)
    )


def as_events(part: Part) -> bytes:
    """Server-sent events, whose ids `attempt-line` are places to go on from."""
    return b"".join(
        encode("line", json.dumps(line.to_json(part.attempt), ensure_ascii=False), f"{part.attempt}-{line.line}")
        for line in lines_of(part)
    )


class LogBody(StreamBody):
    """The body of a plain response: the log in `form`, to the end of what the reader reads.

    When it ends early, whoever follows asks for the run, and comes back if that is not final.
    """

    def __init__(self, reader: LogReader, form: Callable[[Part], bytes], drain: Drain, rights: Rights) -> None:
        super().__init__(drain, rights)
        self._reader, self._form = reader, form

    async def __anext__(self) -> bytes:
        while not self._drain.started and await self._is_welcome():
            part = await self._next(self._reader.receive, RECHECK_S)
            if part is not None:
                return self._form(part)
        raise StopAsyncIteration

    def _close(self) -> None:
        self._reader.close()


class LogEvents:
    """A source of server-sent events: the lines in `form`, then `eof`."""

    def __init__(self, reader: LogReader, form: Callable[[Part], bytes] = as_events) -> None:
        self._reader, self._form, self._ended = reader, form, False

    async def receive(self) -> bytes:
        """See taskman.web.sse.Source."""
        if self._ended:
            raise trio.EndOfChannel
        try:
            return self._form(await self._reader.receive())
        except trio.EndOfChannel:
            self._ended = True
            return encode("eof", "")

    def close(self) -> None:
        """See taskman.web.sse.Source."""
        self._reader.close()
