"""One WebSocket of a connection: Hypercorn's, but bounded."""

from __future__ import annotations

from typing import Any

import h11
from hypercorn.protocol.events import Data, Event, StreamClosed
from hypercorn.protocol.ws_stream import FrameTooLargeError, WSStream
from hypercorn.typing import WebsocketAcceptEvent
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Message, Ping

__all__ = ["TOO_BIG", "Socket", "asks_for_websocket"]

TOO_BIG = 1009


class Socket(WSStream):
    """A message beyond the limit is thrown away as it comes in, and the app told `disconnect` with code 1009.

    The app may still say why, and close. (Hypercorn closes without a word, leaves the app to wait, and lets a client
    compress: a few bytes could then become any number.)
    """

    _is_cut = False

    @property
    def awaits_close(self) -> bool:
        """Whether we have closed it, and the client has not seen that yet."""
        return self.handshake.accepted and self.connection.state is ConnectionState.LOCAL_CLOSING

    async def handle(self, event: Event) -> None:
        if not (self._is_cut and isinstance(event, Data)):
            await super().handle(event)

    async def _accept(self, message: WebsocketAcceptEvent) -> None:
        self.handshake.extensions = None
        await super()._accept(message)

    async def _handle_events(self) -> None:
        assert self.app_put is not None
        for event in self.connection.events():
            if isinstance(event, Message):
                await self._take(event)
                if self._is_cut:
                    return
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                if self.connection.state is ConnectionState.REMOTE_CLOSING:
                    await self._send_wsproto_event(event.response())
                await self.send(StreamClosed(stream_id=self.stream_id))

    async def _take(self, event: Message[Any]) -> None:
        assert self.app_put is not None
        try:
            self.buffer.extend(event)
        except FrameTooLargeError:
            self._is_cut = True
            self.buffer.clear()
            await self.app_put({"type": "websocket.disconnect", "code": TOO_BIG})
            return
        if event.message_finished:
            await self.app_put(self.buffer.to_message())
            self.buffer.clear()


def asks_for_websocket(request: h11.Request) -> bool:
    """Whether the request wants its connection to become a WebSocket."""
    said = {name.lower(): value.decode("latin-1").strip().lower() for name, value in request.headers}
    tokens = [token.strip() for token in said.get(b"connection", "").split(",")]
    return request.method == b"GET" and "upgrade" in tokens and said.get(b"upgrade") == "websocket"
