"""Make the secrets of a whole installation at its first start, and keep them at every other.

    make_secrets.py DIRECTORY [HOST:PORT of Redis]

Below DIRECTORY, `server` gets all of them and the settings made of them, `redis` and `worker` what they need and no
more. TASKMAN_ADMIN_TOKEN, TASKMAN_WORKER_TOKEN, TASKMAN_SECRET_KEY and TASKMAN_REDIS_PASSWORD, where they are set, take
the place of what was made. Nothing has a default that anybody could know.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
from pathlib import Path
from urllib.parse import quote

NAMES = ("admin_token", "worker_token", "secret_key", "redis_password")
_SAFE = re.compile(r"[!#-\[\]-~]{16,}")  # printable, no blank; no quote and no backslash: Redis and TOML differ on them
_EVERYBODYS = 0o444  # Redis is another user, and nobody else mounts its directory
_OWNERS = 0o400


def main(directory: Path, redis: str = "redis:6379") -> None:
    """Make what is missing and write what follows from it. Raises SystemExit that names a bad variable."""
    kept = directory / "server"
    for part in ("server", "redis", "worker"):
        (directory / part).mkdir(parents=True, exist_ok=True)
    known = {name: _secret(kept / name.replace("_", "-"), "TASKMAN_" + name.upper()) for name in NAMES}
    password = known.pop("redis_password")
    settings = {"redis_url": f"redis://:{quote(password, safe='')}@{redis}/0", **known}
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    _write(kept / "taskman.toml", "\n".join(lines), _OWNERS)
    _write(directory / "redis" / "redis.conf", f'requirepass "{password}"', _EVERYBODYS)
    _write(directory / "redis" / "password", password, _EVERYBODYS)
    _write(directory / "worker" / "token", known["worker_token"], _OWNERS)
    print("The secrets are ready. The token to sign in with is printed by:")
    print("    docker compose exec server cat admin-token")


def _secret(path: Path, variable: str) -> str:
    """The one from the environment, else the one that was kept, else a new one; kept in any case."""
    given = os.environ.get(variable, "")
    if given and not _SAFE.fullmatch(given):
        raise SystemExit(f"{variable} must have at least 16 printable characters, without blank, quote and backslash")
    known = path.read_text().strip() if path.exists() else ""
    secret = given or known or secrets.token_urlsafe(32)
    _write(path, secret, _OWNERS)
    return secret


def _write(path: Path, text: str, mode: int) -> None:
    """Write the whole file or nothing of it."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(handle)
    temporary.chmod(mode)
    temporary.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
