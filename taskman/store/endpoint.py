"""Where Redis is and how to greet it: what a Redis URL says, checked once."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, cast

import redis.connection

from ..errors import ConfigError, nearest
from .replies import Argument

__all__ = ["Endpoint"]

_parse_url: Final = cast(Callable[[str], dict[str, Any]], redis.connection.parse_url)

_TLS_OPTIONS: Final = frozenset(
    {
        "ssl_ca_certs",
        "ssl_ca_data",
        "ssl_ca_path",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_ciphers",
        "ssl_exclude_verify_flags",
        "ssl_include_verify_flags",
        "ssl_keyfile",
        "ssl_min_version",
        "ssl_password",
    }
)
_ADDRESS_OPTIONS: Final = frozenset(
    {
        "client_name",
        "connection_class",
        "db",
        "host",
        "password",
        "path",
        "port",
        "socket_connect_timeout",
        "username",
    }
)
# Options that other clients read from the same URL and that mean nothing to one multiplexed link.
_IGNORED_OPTIONS: Final = frozenset(redis.connection.URL_QUERY_ARGUMENT_PARSERS)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One Redis: address, credentials, database, TLS. `describe` never shows the password."""

    host: str
    port: int
    path: str
    db: int
    username: str
    password: str = field(repr=False)
    client_name: str
    connect_timeout_s: float
    tls: ssl.SSLContext | None

    @classmethod
    def from_url(cls, url: str, *, connect_timeout_s: float) -> Endpoint:
        """Read redis://, rediss:// (TLS) and unix:// URLs with the options that redis-py knows.

        Options of redis-py that concern its pools and sockets are accepted and have no effect.
        Raises: ConfigError that names what is wrong, and never repeats the password.
        """
        options = _read(url)
        _check_options(options, tls=url.startswith("rediss://"))
        return cls(
            host=options.get("host", "localhost"),
            port=options.get("port", 6379),
            path=options.get("path", ""),
            db=options.get("db", 0),
            username=options.get("username", ""),
            password=options.get("password", ""),
            client_name=options.get("client_name", f"taskman:{os.getpid()}"),
            connect_timeout_s=options.get("socket_connect_timeout", connect_timeout_s),
            tls=_tls_context(options) if url.startswith("rediss://") else None,
        )

    def describe(self) -> str:
        """The address as a URL without credentials."""
        if self.path:
            return f"unix://{self.path}" + (f"?db={self.db}" if self.db else "")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}/{self.db}"

    def greeting(self) -> list[tuple[Argument, ...]]:
        """The commands that open a link. PING comes early: it tells whether Redis is ready to serve."""
        commands: list[tuple[Argument, ...]] = []
        if self.password:
            commands.append(("AUTH", *filter(None, [self.username]), self.password))
        commands.append(("PING",))
        if self.db:
            commands.append(("SELECT", self.db))
        commands.append(("CLIENT", "SETNAME", self.client_name))
        return commands

    def conceal(self, text: str) -> str:
        """`text` without the password: Redis repeats the arguments of a command that it does not know."""
        return text.replace(self.password, "***") if self.password else text


def _refuse(detail: str) -> NoReturn:
    raise ConfigError(f"The Redis URL (TASKMAN_REDIS_URL) is unusable: {detail}") from None


def _read(url: str) -> dict[str, Any]:
    if not url.startswith(("redis://", "rediss://", "unix://")):
        _refuse("it must begin with redis://, rediss:// (TLS) or unix:// (socket file)")
    try:
        options = _parse_url(url)
    except ValueError as error:
        if "option" in str(error) or "Invalid value" in str(error):
            _refuse(str(error))
        # Not the parser's own words: with an unescaped '/' in it, part of the password is taken for the port.
        _refuse(
            "host or port cannot be read. The port is a number up to 65535; "
            "in a password, write / ? # @ : as %2F %3F %23 %40 %3A"
        )
    _check_path(url, options)
    return options


def _check_path(url: str, options: Mapping[str, Any]) -> None:
    if url.startswith("unix://"):
        if not options.get("path"):
            _refuse("the path of the socket file is missing (unix:///run/redis/redis.sock)")
        return
    path = url.partition("://")[2].partition("#")[0].partition("?")[0].partition("/")[2]
    if path.strip("/") and "db" not in options:
        _refuse("what follows the port must be the number of a database, as in redis://host:6379/0")


def _check_options(options: Mapping[str, Any], *, tls: bool) -> None:
    known = _ADDRESS_OPTIONS | _TLS_OPTIONS | _IGNORED_OPTIONS
    for name in options:
        if name not in known:
            _refuse(f"unknown option '{name}'{nearest(name, known)}")
        if name in _TLS_OPTIONS and not tls:
            _refuse(f"option '{name}' needs TLS, so the URL must begin with rediss://")
    if options.get("db", 0) < 0:
        _refuse("the number of the database is negative")
    if options.get("username") and not options.get("password"):
        _refuse("it has a user name but no password")


def _tls_context(options: Mapping[str, Any]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context()
        _set_verification(context, options)
        _set_certificates(context, options)
        if "ssl_min_version" in options:
            context.minimum_version = ssl.TLSVersion(options["ssl_min_version"])
        if "ssl_ciphers" in options:
            context.set_ciphers(options["ssl_ciphers"])
    except (OSError, ValueError) as error:
        _refuse(f"TLS option: {error}")
    return context


def _set_verification(context: ssl.SSLContext, options: Mapping[str, Any]) -> None:
    modes = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
    requirement = options.get("ssl_cert_reqs", "required")
    if requirement not in modes:
        _refuse(f"ssl_cert_reqs is none, optional or required{nearest(requirement, modes)}")
    context.check_hostname = requirement != "none" and options.get("ssl_check_hostname", True)
    context.verify_mode = modes[requirement]
    for flag in options.get("ssl_include_verify_flags", ()):
        context.verify_flags |= flag
    for flag in options.get("ssl_exclude_verify_flags", ()):
        context.verify_flags &= ~flag


def _set_certificates(context: ssl.SSLContext, options: Mapping[str, Any]) -> None:
    authorities = [options.get(name) for name in ("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data")]
    if any(authorities):
        context.load_verify_locations(*authorities)
    if certificate := options.get("ssl_certfile"):
        context.load_cert_chain(certificate, options.get("ssl_keyfile"), options.get("ssl_password"))
    elif "ssl_keyfile" in options:
        _refuse("ssl_keyfile needs ssl_certfile beside it")
