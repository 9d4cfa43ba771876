"""Starts the main process of a tree."""

from __future__ import annotations

import errno
import os
import pwd
import subprocess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["start"]


def start(argv: list[bytes], cwd: bytes, env: dict[bytes, bytes], user: str, fds: list[int]) -> int:
    """Start the main process in a session of its own, with stdin, stdout and stderr from `fds`; return its pid.

    Everything else that is open here is close-on-exec, no signal is ignored or blocked.
    Raises: OSError whose filename and message say what could not be used.
    """
    try:
        os.chdir(cwd)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} (the working directory)", cwd) from None
    try:
        if user:
            return start_as(user, argv, env, fds)
        actions = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(fds)]
        return os.posix_spawn(find_program(argv[0], env), argv, env, file_actions=actions, setsid=True)
    except OSError as error:
        raise explained(error, argv[0]) from None


def start_as(user: str, argv: list[bytes], env: dict[bytes, bytes], fds: list[int]) -> int:
    """Start the main process as `user`, with all groups of that user. Only root can."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise OSError(errno.EINVAL, "There is no such user", user) from None
    if os.geteuid() != 0:
        raise PermissionError(errno.EPERM, "Only a worker that runs as root can start a process as the user", user)
    uid, gid, groups = account.pw_uid, account.pw_gid, os.getgrouplist(user, account.pw_gid)
    session: Any = {"start_new_session": True, "user": uid, "group": gid, "extra_groups": groups}
    process = subprocess.Popen[bytes](argv, -1, None, fds[0], fds[1], fds[2], env=env, **session)
    process.returncode = 0  # it is reaped with the rest of the tree, not by this object
    return process.pid


def find_program(name: bytes, env: dict[bytes, bytes]) -> bytes:
    """Find a program by the PATH of the environment it will have."""
    if b"/" in name:
        return name
    for folder in env.get(b"PATH", os.defpath.encode()).split(b":"):
        path = os.path.join(folder or b".", name)
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    raise FileNotFoundError(errno.ENOENT, "No such program in PATH", name)


def explained(error: OSError, program: bytes) -> OSError:
    """Give an error of the system the program it is about, and what the bare number does not tell."""
    hint = ""
    if error.errno == errno.ENOEXEC:
        hint = " (a script needs a first line such as #!/bin/sh)"
    elif b"/" in program and os.path.exists(program):
        hint = {errno.EACCES: " (not an executable file)", errno.ENOENT: " (its interpreter)"}.get(error.errno or 0, "")
    return OSError(error.errno, f"{error.strerror}{hint}", error.filename or program)
