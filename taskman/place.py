"""Where a client or a worker finds its server: what it was given, then the settings, then this machine's own."""

from __future__ import annotations

from dataclasses import dataclass
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING

from .config import Config, load
from .errors import ConfigError
from .transport import checked_url

if TYPE_CHECKING:
    from _typeshed import StrPath

__all__ = ["Place", "find_server", "place_of"]

DEFAULT_URL = "http://127.0.0.1:8080"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is, the token for it, or '', and the file of authorities for its certificate, or ''."""

    url: str
    token: str
    ca_file: str = ""

    def require_token(self) -> Place:
        """Itself. Raises ConfigError when there is no token."""
        if self.token:
            return self
        raise ConfigError(
            f"there is no token for {self.url}: set TASKMAN_TOKEN to a token of that server; the one that `taskman up` "
            "keeps for this machine and user is taken when TASKMAN_SERVER is not set"
        )


def find_server(config: Config, url: str | None = None, token: str | None = None, ca_file: str | None = None) -> Place:
    """The server that was given, or that the settings name, or that runs on this machine; and its token.

    The token that a server leaves in its data directory is sent to that server only: any other program of this
    machine, of whomever, may listen on a loopback address. Raises ConfigError.
    """
    local = _first_line(config.directory / "server.url")
    chosen = checked_url(url or config.server or local or DEFAULT_URL)
    token = token or config.token or _token_in_file(config.token_file)
    if not token and chosen == local:
        token = _first_line(config.directory / "cli-token")
    return Place(chosen, token.strip(), ca_file or config.ca_file)


def place_of(url: str | None, token: str | None, ca_file: StrPath | None) -> Place:
    """The server of a client, from what it was given; the settings have the rest. Raises ConfigError."""
    given = None if ca_file is None else fspath(ca_file)
    if url and token and (given or not url.startswith("https:")):
        return Place(url, token.strip(), given or "")
    return find_server(load(), url, token, given).require_token()


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
