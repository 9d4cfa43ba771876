"""The worker protocol `taskman.v1`: its messages, and the frames that carry them. See docs/worker-protocol.md.

A frame is a MessagePack array of messages, a message is a map whose `m` is its kind. What a newer version adds, a
kind or a field, is ignored; what is malformed is named exactly.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec

from ..errors import ProtocolViolation
from .portions import portions

__all__ = [
    "CHUNK_BYTES",
    "FRAME_BYTES",
    "LARGEST_BYTES",
    "Assign",
    "AssignedRun",
    "Beat",
    "Bye",
    "Cancel",
    "Description",
    "Done",
    "Drain",
    "Drop",
    "Error",
    "Held",
    "Hello",
    "Log",
    "Logged",
    "Message",
    "Progress",
    "Recorded",
    "Release",
    "Renewed",
    "Resume",
    "Want",
    "Welcome",
    "encode",
    "encode_assign",
    "encode_run",
    "frames_of",
    "read_from_server",
    "read_from_worker",
    "read_message",
]

FRAME_BYTES = 256 * 1024
LARGEST_BYTES = 4 * 1024 * 1024
"""What a frame may have that carries one run or one result, which do not fit into less."""
CHUNK_BYTES = 64 * 1024

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z"
_LABEL = r"^[A-Za-z0-9._/-]{1,63}\Z"
_MOST = 1000

Name = Annotated[str, msgspec.Meta(pattern=_NAME)]
Label = Annotated[str, msgspec.Meta(pattern=_LABEL)]
RunId = Annotated[str, msgspec.Meta(pattern=r"^r[0-9]{1,4}-[0-9a-hjkmnp-tv-z]{23}\Z")]
Number = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Instant = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Slots = Annotated[int, msgspec.Meta(ge=0, le=100_000)]
Reason = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,39}\Z")]
Short = Annotated[str, msgspec.Meta(max_length=200)]
Bytes = Annotated[bytes, msgspec.Meta(max_length=CHUNK_BYTES)]
Chunk = tuple[Number, Instant, Literal["out", "err", "sys"], Bytes]


class Message(msgspec.Struct, tag_field="m"):
    """Any message."""


class Held(msgspec.Struct, frozen=True):
    """An attempt that a worker executes, or whose outcome it has not got rid of yet."""

    run: RunId
    attempt: Number


class Description(msgspec.Struct, frozen=True):
    """A task type for those that do not have it: what it does, and the JSON Schema of its params."""

    description: Annotated[str, msgspec.Meta(max_length=2000)]
    schema: dict[str, Any]


class Kept(Held, frozen=True, omit_defaults=True):
    """An attempt that goes on, in another process than before: so far its log is stored, by seq and by lines."""

    seq: int | None = None
    line: int | None = None


# From the worker.


class Hello(Message, tag="hello"):
    """Who connects. `boot` names the process: what a process does not hold that it was sent never reached it."""

    id: Name
    slots: Annotated[int, msgspec.Meta(ge=1, le=100_000)]
    types: Annotated[dict[Name, Short], msgspec.Meta(max_length=_MOST)]
    name: Annotated[str, msgspec.Meta(max_length=100)] = ""
    version: Annotated[str, msgspec.Meta(max_length=100)] = ""
    queues: Annotated[list[Name], msgspec.Meta(max_length=_MOST)] | None = None
    labels: Annotated[dict[Label, Label], msgspec.Meta(max_length=_MOST)] = msgspec.field(default_factory=dict)
    held: list[Held] = msgspec.field(default_factory=list)
    boot: Annotated[str, msgspec.Meta(max_length=100)] = ""
    descriptions: Annotated[dict[Name, Description], msgspec.Meta(max_length=_MOST)] = msgspec.field(
        default_factory=dict
    )


class Want(Message, tag="want"):
    """So many slots are free, in all."""

    n: Slots


class Beat(Message, tag="beat"):
    """The worker lives, and holds all this."""

    held: list[Held] = msgspec.field(default_factory=list)
    load: Any = None


class Log(Message, tag="log"):
    """Chunks of output, in order: seq (from 1 in the attempt), epoch ms, stream, bytes."""

    run: RunId
    attempt: Number
    chunks: list[Chunk]


class Progress(Message, tag="progress"):
    """How far an attempt is."""

    run: RunId
    attempt: Number
    done: float
    total: float | None = None
    message: str | None = None


class Done(Message, tag="done"):
    """How an attempt ended. `fatal` is a failure that is final whatever the policy; `lost` is nobody's fault."""

    run: RunId
    attempt: Number
    outcome: Literal["succeeded", "failed", "fatal", "cancelled", "lost"]
    reason: Reason | None = None
    result: Any = None
    error: str | None = None
    retry_after: Seconds | None = None


class Release(Message, tag="release"):
    """The attempt has been stopped, or never started: the run goes back."""

    run: RunId
    attempt: Number


class Bye(Message, tag="bye"):
    """The worker has stopped, and holds nothing any more."""


# From the server.


class Welcome(Message, tag="welcome"):
    """The answer to `hello`."""

    heartbeat_s: float
    lease_s: float
    server: str
    keep: list[Kept]
    drop: list[Held]


class AssignedRun(msgspec.Struct):
    """A run to execute. Times are seconds, `fire_time` is RFC 3339."""

    run: RunId
    attempt: Number
    type: str
    params: dict[str, Any]
    env: dict[str, str] = msgspec.field(default_factory=dict)
    secrets: dict[str, str] = msgspec.field(default_factory=dict)
    timeout: float | None = None
    idle_timeout: float | None = None
    grace: float = 10.0
    fire_time: str | None = None
    task: str | None = None
    lost_grace: float = 20.0


class Assign(Message, tag="assign"):
    """Runs that are this worker's from now on. Their leases had been counted for `age` seconds when it was sent."""

    runs: list[AssignedRun]
    age: float = 0.0


class Renewed(Message, tag="beat"):
    """The answer to `beat`. What is in neither list was not renewed; `error` says why."""

    keep: list[Held]
    drop: list[Held]
    error: str | None = None


class Logged(Message, tag="logged"):
    """Chunks up to `seq` are stored; with `error` they are not, and may be sent again."""

    run: RunId
    attempt: Number
    seq: int
    error: str | None = None
    full: bool = False


class Recorded(Message, tag="recorded"):
    """The state of the run, or `stale` when the attempt was not this worker's; with `error`: send it again later."""

    run: RunId
    attempt: Number
    state: str | None
    error: str | None = None


class Cancel(Message, tag="cancel"):
    """Stop the attempt; its clean-up may take `grace` seconds."""

    run: RunId
    attempt: Number
    grace: float
    force: bool = False


class Drop(Message, tag="drop"):
    """The attempt is not this worker's any more: stop it at once, deliver nothing."""

    run: RunId
    attempt: Number


class Drain(Message, tag="drain"):
    """Finish what runs; nothing new comes until `resume`."""


class Resume(Message, tag="resume"):
    """The drain is over."""


class Error(Message, tag="error"):
    """Why this connection ends."""

    detail: str
    code: str = "error"


FromWorker = Hello | Want | Beat | Log | Progress | Done | Release | Bye
FromServer = Welcome | Assign | Renewed | Logged | Recorded | Cancel | Drop | Drain | Resume | Error


# Text that is no UTF-8, and nesting beyond all reason, come as errors of Python's own.
_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Kind(msgspec.Struct):
    m: str


_encoder = msgspec.msgpack.Encoder()
_envelopes = msgspec.msgpack.Decoder(list[msgspec.Raw])
_kind = msgspec.msgpack.Decoder(_Kind)


class _Reader:
    """Reads frames from one side."""

    def __init__(self, messages: Any, kinds: Iterable[str], large: str) -> None:
        self._all = msgspec.msgpack.Decoder(list[messages])
        self._one = msgspec.msgpack.Decoder(messages)
        self._kinds, self._large = frozenset(kinds), large

    def read(self, frame: bytes) -> list[Any]:
        if len(frame) > FRAME_BYTES:
            return self._read_large(frame)
        try:
            found: list[Any] = self._all.decode(frame)
        except _MALFORMED:
            return self._read_each(frame)
        return found

    def read_one(self, message: bytes) -> Any:
        return self._one.decode(message)

    def _read_each(self, frame: bytes) -> list[Any]:
        """Past the messages of unknown kinds; and where one is malformed, a better error."""
        found = []
        for index, raw in enumerate(_split(frame)):
            kind = _kind_of(raw, index)
            if kind in self._kinds:
                found.append(self._read_one(raw, kind, index))
        return found

    def _read_one(self, raw: msgspec.Raw, kind: str, index: int) -> Any:
        try:
            return self._one.decode(raw)
        except _MALFORMED as error:
            raise ProtocolViolation(f"message {index + 1} of the frame, '{kind}': {error}") from None

    def _read_large(self, frame: bytes) -> list[Any]:
        too_large = f"a frame of {len(frame):,} bytes: at most {FRAME_BYTES:,} are taken, or one '{self._large}' alone"
        if len(frame) > LARGEST_BYTES:
            raise ProtocolViolation(too_large)
        parts = _split(frame)
        if len(parts) != 1 or _kind_of(parts[0], 0) != self._large:
            raise ProtocolViolation(too_large)
        return [self._read_one(parts[0], self._large, 0)]


def _split(frame: bytes) -> list[msgspec.Raw]:
    try:
        return _envelopes.decode(frame)
    except _MALFORMED as error:
        raise ProtocolViolation(f"a frame is a MessagePack array of messages: {error}") from None


def _kind_of(raw: msgspec.Raw, index: int) -> str:
    try:
        return _kind.decode(raw).m
    except _MALFORMED as error:
        raise ProtocolViolation(f"message {index + 1} of the frame has no kind 'm': {error}") from None


_from_worker = _Reader(FromWorker, ("hello", "want", "beat", "log", "progress", "done", "release", "bye"), "done")
_from_server = _Reader(
    FromServer,
    ("welcome", "assign", "beat", "logged", "recorded", "cancel", "drop", "drain", "resume", "error"),
    "assign",
)


def read_from_worker(frame: bytes) -> list[Any]:
    """The messages that a worker sent. Raises ProtocolViolation that says which one is wrong, and how."""
    return _from_worker.read(frame)


def read_message(encoded: bytes) -> Any:
    """One message of a worker, as `encode` made it."""
    return _from_worker.read_one(encoded)


def read_from_server(frame: bytes) -> list[Any]:
    """The messages that a server sent. Raises ProtocolViolation."""
    return _from_server.read(frame)


def encode(message: Message) -> bytes:
    """One message, to be put into a frame. Raises OverflowError, TypeError for values that MessagePack has not."""
    return _encoder.encode(message)


def encode_run(run: AssignedRun) -> bytes:
    """One run of an `assign`. Raises OverflowError, TypeError for params that MessagePack cannot carry."""
    return _encoder.encode(run)


def encode_assign(runs: Sequence[bytes], age_s: float) -> bytes:
    """An `assign` of runs that are encoded already."""
    return (
        b"\x83\xa1m\xa6assign\xa3age\xcb" + struct.pack(">d", age_s) + b"\xa4runs" + _array(len(runs)) + b"".join(runs)
    )


def frames_of(messages: Iterable[bytes]) -> Iterator[bytes]:
    """Encoded messages in as few frames as may be, in order."""
    for part in portions(messages, len, FRAME_BYTES - 5):  # beside the longest head of an array
        yield _array(len(part)) + b"".join(part)


def _array(count: int) -> bytes:
    """The head of an array."""
    if count < 16:
        return bytes((0x90 | count,))
    if count < 65536:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")
