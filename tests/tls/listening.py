"""Servers that are not Taskman's: what they hear is what must not be said to them."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path


class Listening(threading.Thread):
    """Accepts connections, with TLS when it has a certificate, answers `reply`, and keeps what it heard."""

    def __init__(self, certificate: Path | None = None, reply: bytes = b"") -> None:
        super().__init__(daemon=True)
        self._socket, self._reply = socket.create_server(("127.0.0.1", 0)), reply
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate)
        self.port: int = self._socket.getsockname()[1]
        self.connections, self.heard = 0, b""

    def run(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                with suppress(OSError), connection:
                    connection.settimeout(5)
                    self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        with self._context.wrap_socket(connection, server_side=True) if self._context else connection as stream:
            self.heard += stream.recv(65536)
            stream.sendall(self._reply)

    def close(self) -> None:
        """Accept no more."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.join(10)
        self._socket.close()


def redirect(to: str) -> bytes:
    """The answer of a server that wants to be asked elsewhere."""
    head = f"HTTP/1.1 308 Permanent Redirect\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    return head.encode()
