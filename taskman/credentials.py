"""The secrets of a server and the files they live in: made once, readable by their owner only."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from .config import Address, Config
from .errors import ConfigError
from .model.token import Bootstrap, Scope

__all__ = ["announce_url", "bootstrap_tokens", "prepare_directory", "require_credentials", "secret_key", "withdraw_url"]

CLI_TOKEN = "cli-token"
SECRET_KEY = "secret-key"
SERVER_URL = "server.url"


def prepare_directory(config: Config) -> Path:
    """The data directory, made if need be. Raises ConfigError when it cannot be used."""
    directory = config.directory
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise ConfigError(
            f"the data directory {directory} cannot be used ({error.strerror}): correct TASKMAN_DATA_DIR or --data-dir"
        ) from None
    return directory


def require_credentials(config: Config, addresses: list[Address]) -> None:
    """Refuse to listen beyond this machine without a token that somebody has chosen. Raises ConfigError."""
    exposed = next((address for address in addresses if not address.is_loopback), None)
    if exposed is not None and not config.admin_token:
        raise ConfigError(
            f"{exposed} can be reached from other machines: set TASKMAN_ADMIN_TOKEN first, "
            'for example to the output of `python3 -c "import secrets; print(secrets.token_urlsafe(32))"`'
        )
    for name in ("admin_token", "worker_token"):
        if 0 < len(config.values[name]) < 16:
            raise ConfigError(f"TASKMAN_{name.upper()} is too short: use at least 16 characters")
    if config.admin_token and config.admin_token == config.worker_token:
        raise ConfigError("TASKMAN_ADMIN_TOKEN and TASKMAN_WORKER_TOKEN are the same: workers need one of their own")


def bootstrap_tokens(config: Config, directory: Path) -> dict[str, Bootstrap]:
    """The tokens that this server accepts besides stored ones: for this machine, the administrator and the workers."""
    tokens = {_keep(directory / CLI_TOKEN, lambda: "tm_" + secrets.token_urlsafe(32)): Bootstrap("local")}
    if config.worker_token:
        tokens[config.worker_token] = Bootstrap("workers", Scope.WORKER)
    if config.admin_token:
        tokens[config.admin_token] = Bootstrap("admin")
    return tokens


def secret_key(config: Config, directory: Path) -> bytes:
    """The key that signs form tokens."""
    key: str = config.secret_key or _keep(directory / SECRET_KEY, lambda: secrets.token_urlsafe(32))
    return key.encode()


def announce_url(directory: Path, url: str) -> None:
    """Tell the command line on this machine where the server is."""
    _write(directory / SERVER_URL, url)


def withdraw_url(directory: Path, url: str) -> None:
    """Take the announcement back, unless another server has announced itself since."""
    path = directory / SERVER_URL
    with suppress(OSError):
        if path.read_text().strip() == url:
            path.unlink()


def _keep(path: Path, make: object) -> str:
    """The secret in the file, made at the first call."""
    assert callable(make)
    try:
        known = path.read_text().strip()
    except FileNotFoundError:
        known = ""
    if known:
        return known
    made: str = make()
    _write(path, made)
    return made


def _write(path: Path, text: str) -> None:
    """Write the whole file or nothing of it, for its owner's eyes."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text + "\n")
    temporary.replace(path)
