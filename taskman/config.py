"""Every setting: one table of names, defaults, units and help; read from flag, environment and files.

Precedence: flag > environment > `taskman.toml` in the working directory > user configuration > default.
Source: the SETTINGS table below is what `taskman config list` prints and what docs/settings.md repeats.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import platformdirs

from .errors import ConfigError, nearest

__all__ = [
    "SETTINGS",
    "Address",
    "Config",
    "Setting",
    "default_data_dir",
    "load",
    "local_timezone",
    "parse_bind",
]


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `name` is the key in taskman.toml; the variable is TASKMAN_ and the name in capitals.

    Plugins read those that are `for_plugins` from the environment, wherever the value came from.
    """

    name: str
    kind: Callable[[str], Any]
    default: str
    help: str
    for_plugins: bool = False

    @property
    def variable(self) -> str:
        return "TASKMAN_" + self.name.upper()


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0 lets the system choose."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def default_data_dir() -> Path:
    """The platform's place for Taskman's data, such as ~/.local/share/taskman."""
    return Path(platformdirs.user_data_dir("taskman", appauthor=False))


def parse_bind(text: str) -> list[Address]:
    """Read `127.0.0.1:8080,[::1]:8080` (a lone port or host is completed). Raises ConfigError."""
    return [_parse_address(part.strip()) for part in text.split(",") if part.strip()]


def _parse_address(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    if text.isdigit():
        host, port = "127.0.0.1", text
    elif not colon or text.endswith("]"):
        host, port = text, "8080"
    try:
        number = int(port)
    except ValueError:
        number = -1
    if not 0 <= number <= 65535:
        raise ConfigError(f"'{text}' is no address: write HOST:PORT with a port from 0 to 65535")
    return Address(host.strip("[]") or "0.0.0.0", number)


def _text(value: str) -> str:
    return value


def _path(value: str) -> Path:
    return Path(value).expanduser()


def _names(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _labels(value: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in _names(value)]
    if not all(name and equals and label for name, equals, label in pairs):
        raise ValueError("must read name=value, with commas between several")
    if taken := {"worker", "place"} & {name for name, _, _ in pairs}:
        raise ValueError(f"'{min(taken)}' cannot be a label: it has a meaning of its own, choose another name")
    return {name: label for name, _, label in pairs}


def _count(value: str) -> int:
    number = int(value)
    if number < 0:
        raise ValueError("must not be negative")
    return number


def _seconds(value: str) -> float:
    number = float(value.removesuffix("s"))
    if not 0 <= number < 1e9:
        raise ValueError("must be a number of seconds, zero or more")
    return number


def _places(value: str) -> tuple[str, ...]:
    for place in _names(value):
        if "/" in place or ":" in place or place.replace(".", "").isdigit():
            ip_network(place.strip("[]"), strict=False)
        elif not re.fullmatch(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?", place):
            raise ValueError(f"'{place}' is no network and no name of a host")
    return _names(value)


def _patterns(value: str) -> str:
    if wrong := [part for part in _names(value) if part.count(":") != 1]:
        raise ValueError(f"'{wrong[0]}' does not read module:function")
    return value


_UNITS = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_LOG_LIMITS = range(64 * 1024, 256 * 1024**2 + 1)
_SPOOL_LIMITS = range(1024**2, 1024**4 + 1)


def _bytes(value: str) -> int:
    number, unit = (value[:-3], value[-3:]) if value[-3:] in _UNITS else (value, "")
    return int(number) * _UNITS.get(unit, 1)


def _spool_limit(value: str) -> int:
    size = _bytes(value)
    if size not in _SPOOL_LIMITS:
        raise ValueError("must be a number of bytes, such as 1GiB, from 1MiB to 1024GiB")
    return size


def _log_limit(value: str) -> int:
    size = _bytes(value)
    if size not in _LOG_LIMITS:
        raise ValueError("must be a number of bytes, such as 16MiB, from 64KiB to 256MiB")
    return size


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "redis_url",
        _text,
        "",
        "redis://, rediss:// or unix:// URL; empty starts an embedded Redis",
        for_plugins=True,
    ),
    Setting("data_dir", _path, "", "directory of the embedded Redis, keys and tokens; empty: the platform's"),
    Setting("bind", _text, "127.0.0.1:8080", "address and port to listen on; may repeat with commas"),
    Setting("admin_token", _text, "", "a bootstrap API token with scope admin"),
    Setting("worker_token", _text, "", "a bootstrap API token with scope worker, for worker nodes"),
    Setting("secret_key", _text, "", "key for forms and secrets; empty: made once, kept 0600 in the data directory"),
    Setting("allowed_hosts", _names, "", "extra Host values to answer to, with commas; *.example.com allowed"),
    Setting("timezone", _text, "", "IANA zone of new schedules; empty: the machine's, else UTC"),
    Setting("workers", _count, "", "slots of the local worker; 0: none; empty: twice the processors, at least 4"),
    Setting("queue_limit", _count, "0", "how many runs may wait in a queue before more are refused; 0: no limit"),
    Setting(
        "http_allow",
        _places,
        "",
        "where http tasks may go although it is denied: networks, hosts, *.example.com, private, loopback",
        for_plugins=True,
    ),
    Setting(
        "http_deny",
        _places,
        "",
        "where they may not go, in the same words or all; link-local and metadata addresses are denied already",
        for_plugins=True,
    ),
    Setting("labels", _labels, "", "labels of the worker, as name=value with commas"),
    Setting("slots", _count, "", "slots of a remote worker; empty: twice the processors, at least 4"),
    Setting("worker_name", _text, "", "what people call a remote worker; empty: its id"),
    Setting("queues", _names, "", "queues that a remote worker serves, with commas; empty: all of them"),
    Setting("types", _names, "", "task types that a remote worker serves, with commas; empty: all it has"),
    Setting(
        "spool_limit",
        _spool_limit,
        "1GiB",
        "how much output a remote worker keeps on disk while no server is there; 1MiB to 1024GiB",
    ),
    Setting("drain_timeout", _seconds, "2", "seconds that runs get to finish when the server stops; a worker: 30"),
    Setting(
        "log_limit",
        _log_limit,
        "16MiB",
        "how much of a run's log is kept: its first quarter and its end; 64KiB to 256MiB",
    ),
    Setting("keep_days", _count, "30", "days that runs are kept when they are over; 0: no limit"),
    Setting("keep_runs", _count, "100000", "how many runs that are over are kept in all; 0: no limit"),
    Setting("keep_runs_per_task", _count, "1000", "how many of them are kept of each task; 0: no limit"),
    Setting(
        "allow_callables",
        _patterns,
        "",
        "functions that python runs may call without @task: patterns such as myapp.tasks:*, with commas",
        for_plugins=True,
    ),
    Setting("server", _text, "", "base URL for the CLI, the SDK and workers; empty: the local server's"),
    Setting(
        "ca_file",
        _text,
        "",
        "file of authorities whose certificates the server may have; empty: SSL_CERT_FILE, else the system's",
    ),
    Setting("token", _text, "", "token for the CLI, the SDK and workers"),
    Setting("token_file", _text, "", "file that holds the token for the CLI, the SDK and workers"),
)
_BY_NAME = {setting.name: setting for setting in SETTINGS}


@dataclass(frozen=True, slots=True)
class Config:
    """The settings in force, typed; `origin` tells where each came from."""

    values: Mapping[str, Any]
    origin: Mapping[str, str]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def directory(self) -> Path:
        """The data directory; not created yet."""
        chosen: Path = self.values["data_dir"]
        return chosen if str(chosen) != "." else default_data_dir()

    def for_plugins(self) -> dict[str, str]:
        """The variables that plugins read, for os.environ; of the kinds only text and names."""
        values = {setting.variable: self.values[setting.name] for setting in SETTINGS if setting.for_plugins}
        return {name: value if isinstance(value, str) else ",".join(value) for name, value in values.items() if value}


def load(flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None) -> Config:
    """Gather every setting.

    `flags` are values given on the command line (None: not given). Raises ConfigError that names the setting,
    where it came from, and what it takes.
    """
    environ = os.environ if environment is None else environment
    layers = [
        ("flag", {name: str(value) for name, value in (flags or {}).items() if value is not None}),
        ("environment", {s.name: environ[s.variable] for s in SETTINGS if environ.get(s.variable)}),
        ("./taskman.toml", _read_toml(Path("taskman.toml"))),
        (
            "user configuration",
            _read_toml(Path(platformdirs.user_config_dir("taskman", appauthor=False)) / "config.toml"),
        ),
        ("default", {s.name: s.default for s in SETTINGS}),
    ]
    values, origin = {}, {}
    for setting in SETTINGS:
        where, text = next((where, layer[setting.name]) for where, layer in layers if setting.name in layer)
        values[setting.name], origin[setting.name] = _convert(setting, text, where), where
    return Config(values, origin)


def _convert(setting: Setting, text: str, where: str) -> Any:
    if text == "" and setting.kind in (_count, _seconds):
        return None
    try:
        return setting.kind(text)
    except ValueError as error:
        raise ConfigError(
            f"{setting.variable} ({where}) cannot be '{text}': {error}. It takes: {setting.help}"
        ) from None


def _read_toml(path: Path) -> dict[str, str]:
    try:
        table = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    for name in table:
        if name not in _BY_NAME:
            raise ConfigError(f"{path}: there is no setting '{name}'{nearest(name, _BY_NAME)}")
    return {name: ",".join(map(str, v)) if isinstance(v, list) else str(v) for name, v in table.items()}


def local_timezone() -> str:
    """The machine's IANA time zone, else UTC."""
    link = os.path.realpath("/etc/localtime")
    candidates = (os.environ.get("TZ", "").lstrip(":"), _first_line("/etc/timezone"), link.partition("/zoneinfo/")[2])
    return next((name for name in candidates if name and _is_zone(name)), "UTC")


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True
