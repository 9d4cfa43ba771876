"""The sockets that a server listens on: opened before anything else, and what to do when they cannot be."""

import socket

import pytest

from taskman.config import Address
from taskman.errors import ConfigError
from taskman.web.listening import bound_urls, open_sockets


def test_taken_port_is_named_with_its_remedies():
    (sock,) = open_sockets([Address("127.0.0.1", 0)])
    with sock:
        port = sock.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            open_sockets([Address("127.0.0.1", port)])
    assert str(caught.value) == (
        f"port {port} on 127.0.0.1 is in use (Address already in use): stop the other server, "
        "or choose another with --port N / TASKMAN_BIND"
    )


def test_sockets_opened_before_a_failure_are_closed():
    (probe,) = open_sockets([Address("127.0.0.1", 0)])
    free = probe.getsockname()[1]
    probe.close()
    with pytest.raises(ConfigError, match="no address of this machine"):
        open_sockets([Address("127.0.0.1", free), Address("192.0.2.1", 0)])
    for sock in open_sockets([Address("127.0.0.1", free)]):
        sock.close()


def test_forbidden_port_is_explained(monkeypatch):
    def bind(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind, raising=False)
    with pytest.raises(ConfigError, match=r"port 80 on 127\.0\.0\.1 is not allowed to this user"):
        open_sockets([Address("127.0.0.1", 80)])


def test_unknown_name_is_explained():
    with pytest.raises(ConfigError, match="cannot be resolved"):
        open_sockets([Address("no such host", 0)])


def test_sockets_are_ready_to_serve():
    sockets = open_sockets([Address("127.0.0.1", 0), Address("0.0.0.0", 0)])
    for sock in sockets:
        with sock:
            assert sock.gettimeout() == 0
            assert not sock.get_inheritable()
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
            assert bound_urls([sock]) == [f"http://127.0.0.1:{sock.getsockname()[1]}"]
