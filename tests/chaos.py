"""A TCP proxy that cuts, resets, freezes, strands and slows what passes through it, at a test's command."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import trio

__all__ = ["ChaosProxy"]

_PIECE = 16 * 1024


class _Passage:
    """One connection through the proxy. `frozen`: the directions in which nothing passes any more."""

    def __init__(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        self.client, self.server = client, server
        self.scope = trio.CancelScope()
        self.frozen: set[str] = set()

    def reset(self) -> None:
        for stream in (self.client, self.server):
            _reset(stream)
        self.scope.cancel()


def _reset(stream: trio.SocketStream) -> None:
    with suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


class ChaosProxy:
    """Runs in a thread of its own; `url` stands for the target's. Every method may be called from the test."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = parts.hostname or "", parts.port or 80
        self._passages: set[_Passage] = set()
        self._is_cut = False
        self._frozen: set[str] = set()
        self._rate: float | None = None
        self._changed = trio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=partial(trio.run, self._run), daemon=True)
        self.url = ""
        self.passed = 0

    def __enter__(self) -> ChaosProxy:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *exception: object) -> None:
        self._call(lambda: self._nursery.cancel_scope.cancel())
        self._thread.join(10)

    def cut(self) -> None:
        """Reset what passes, and everything that comes from now on."""
        self._call(partial(self._set, cut=True))
        self.reset()

    def reset(self) -> None:
        """Reset what passes now."""
        self._call(lambda: [passage.reset() for passage in list(self._passages)])

    def freeze(self, *directions: str) -> None:
        """Let nothing pass `up`, `down`, or either way; what was sent comes through when it is healed."""
        self._call(partial(self._set, frozen=set(directions or ("up", "down"))))

    def strand(self) -> None:
        """Let nothing pass any more on the connections that there are, for ever; new ones work."""
        self._call(lambda: [passage.frozen.update(("up", "down")) for passage in self._passages])

    def slow(self, bytes_per_s: float) -> None:
        """Let so much pass each way."""
        self._call(partial(self._set, rate=bytes_per_s))

    def heal(self) -> None:
        """Let everything pass again."""
        self._call(partial(self._set, cut=False, frozen=set(), rate=0.0))

    def _call(self, function: Callable[[], Any]) -> None:
        trio.from_thread.run_sync(function, trio_token=self._token)

    def _set(self, *, cut: bool | None = None, frozen: set[str] | None = None, rate: float | None = None) -> None:
        self._is_cut = self._is_cut if cut is None else cut
        self._frozen = self._frozen if frozen is None else frozen
        self._rate = self._rate if rate is None else rate or None
        self._changed.set()
        self._changed = trio.Event()

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self._nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
            self._ready.set()
            await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, client: trio.SocketStream) -> None:
        if self._is_cut:
            _reset(client)
            return
        try:
            server = await trio.open_tcp_stream(*self._target)
        except OSError:
            _reset(client)
            return
        passage = _Passage(client, server)
        self._passages.add(passage)
        try:
            with passage.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, passage, client, server, "up")
                    nursery.start_soon(self._pump, passage, server, client, "down")
        finally:
            self._passages.discard(passage)
            for stream in (client, server):
                stream.socket.close()

    async def _pump(
        self, passage: _Passage, source: trio.SocketStream, sink: trio.SocketStream, direction: str
    ) -> None:
        try:
            while data := await source.receive_some(_PIECE):
                while direction in self._frozen | passage.frozen:
                    await self._changed.wait()
                if self._rate:
                    await trio.sleep(len(data) / self._rate)
                await sink.send_all(data)
                self.passed += len(data)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            passage.reset()
