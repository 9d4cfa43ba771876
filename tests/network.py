"""A network that breaks when a test wants it to."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Network:
    """Forwards connections to a server. `budgets` are for the next ones: so many bytes of replies, then they break."""

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("http://").rpartition(":")
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.budgets: list[int] = []
        self.connections = 0
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def break_all(self) -> None:
        """Break every connection that there is."""
        for one in self._sockets:
            _shut(one)

    def close(self) -> None:
        """Break everything, and take no more."""
        _shut(self._listener)
        self._threads[0].join()
        self.break_all()
        for thread in self._threads[1:]:
            thread.join()
        for one in (self._listener, *self._sockets):
            one.close()

    def _start(self, work: object, *args: object) -> None:
        self._threads.append(threading.Thread(target=work, args=args, daemon=True))  # type: ignore[arg-type]
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._sockets.append(near)
                self.connections += 1
                budget = self.budgets.pop(0) if self.budgets else None
                far = socket.create_connection(self._target)
                self._sockets.append(far)
                self._start(self._pump, near, far, None)
                self._start(self._pump, far, near, budget)

    def _pump(self, source: socket.socket, sink: socket.socket, budget: int | None) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if budget is not None and len(data) > budget:
                    sink.sendall(data[:budget])
                    break
                sink.sendall(data)
                budget = None if budget is None else budget - len(data)
        _shut(source)
        _shut(sink)


def _shut(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
