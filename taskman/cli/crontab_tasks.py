"""Crontab entries as tasks: what is the same, and in words what is not."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any
from zoneinfo import ZoneInfo

from ..model.cron import Cron
from ..model.cronfields import NAMES
from ..model.walltime import changes_within_a_year
from .crontab_lines import Entry, Trouble, read_crontab, split_input

__all__ = ["CRON_PATH", "Machine", "Taken", "take_over", "task_name"]

# what cron gives to commands unless the crontab says otherwise
CRON_PATH = "/usr/bin:/bin"
_MAIL = frozenset({"MAILTO", "MAILFROM", "CONTENT_TYPE", "CONTENT_TRANSFER_ENCODING"})
_CRONS_OWN = _MAIL | {"SHELL", "HOME", "CRON_TZ", "RANDOM_DELAY", "LOGNAME", "USER"}
_PLACES = ("minute", "hour", "day of month", "month", "day of week")
_LIMITS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_GUARDS = frozenset(
    {"test", "[", "[[", "if", "cd", "fi", "{", "}", "!", "exit", "sleep", "then", "else", "do", "done", ""}
)


@dataclass(slots=True)
class Taken:
    """What became of one line: the task it is in, or why it is in none; and what differs from cron."""

    number: int
    text: str
    name: str | None = None
    refusal: str | None = None
    differences: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Machine:
    """What is taken from where the crontab was: the zone of its clock, whose it is, and where people live."""

    timezone: str
    user: str | None = None
    prefix: str = ""
    home_of: Callable[[str], str | None] = lambda user: None


def take_over(text: str, *, system: bool, machine: Machine) -> tuple[list[Taken], list[dict[str, Any]]]:
    """Every entry with what became of it, and the tasks; entries of the same user and command are one task."""
    report: list[Taken] = []
    tasks: dict[str, dict[str, Any]] = {}
    for line in read_crontab(text, system=system):
        taken = Taken(line.number, line.text)
        report.append(taken)
        if isinstance(line, Trouble):
            taken.refusal = line.why
            continue
        try:
            task = _task(line, machine, taken.differences)
        except ValueError as error:
            taken.refusal = str(error)
            continue
        taken.name = task["name"]
        known = tasks.setdefault(task["name"], task)
        if known is not task:
            known["schedules"] += task["schedules"]
            known["description"] = known["description"] or task["description"]
    return report, list(tasks.values())


def _task(entry: Entry, machine: Machine, differences: list[str]) -> dict[str, Any]:
    """The task of an entry; what differs is added to `differences`. Raises ValueError when there is no equal."""
    user = entry.user or machine.user
    command, sent = split_input(entry.command)
    if not command.strip():
        raise ValueError("has no command before its first %")
    environment, cwd = _environment(entry, user, machine, differences)
    params: dict[str, Any] = {"command": command}
    if (shell := entry.settings.get("SHELL", "/bin/sh")) != "/bin/sh":
        params["shell"] = shell
    params |= {name: value for name, value in (("cwd", cwd), ("stdin", sent), ("user", user)) if value is not None}
    name = machine.prefix + task_name(command, f"{user}\0{entry.command}\0{sorted(environment.items())}\0{shell}")
    schedule = _schedule(entry, name, machine, differences)
    differences += _remarks(entry, user)
    return {
        "name": name,
        "type": "shell",
        "params": params,
        "description": entry.comment,
        "env": environment,
        "overlap": "allow",
        "schedules": [schedule],
    }


def _environment(
    entry: Entry, user: str | None, machine: Machine, differences: list[str]
) -> tuple[dict[str, str], str | None]:
    """The environment and the directory."""
    settings = entry.settings
    found = {"PATH": CRON_PATH} | {name: value for name, value in settings.items() if name not in _CRONS_OWN}
    if refused := sorted(name for name in found if name.startswith("TASKMAN_")):
        differences.append(f"{', '.join(refused)} left out: these names are Taskman's own")
        found = {name: value for name, value in found.items() if name not in refused}
    home = settings.get("HOME") or (machine.home_of(user) if user else None)
    if home is None:
        differences.append("runs in the directory of the worker, and with its HOME: cron uses the home of the user")
        return found, None
    more = {"HOME": home, **({"LOGNAME": user, "USER": user} if user else {})}
    return found | more, home


def _schedule(entry: Entry, name: str, machine: Machine, differences: list[str]) -> dict[str, Any]:
    timezone = entry.settings.get("CRON_TZ") or machine.timezone
    when = " ".join(_settled(entry.when, name, differences))
    try:
        cron = Cron(when, ZoneInfo(timezone))
    except (KeyError, OSError):
        raise ValueError(f"CRON_TZ: there is no time zone '{timezone}'") from None
    differences += _differing_rules(cron)
    schedule: dict[str, Any] = {"cron": when, "timezone": timezone, "catchup": "skip"}
    delay = entry.settings.get("RANDOM_DELAY", "")
    if delay.isdigit() and int(delay):
        schedule["jitter"] = float(int(delay) * 60)
        differences.append(f"RANDOM_DELAY={delay}: each due time has its own fixed delay, cron draws one at its start")
    return schedule


def _settled(when: str, name: str, differences: list[str]) -> Iterator[str]:
    """The fields, with one number in the place of each random range such as 0~30, always the same for the same task."""
    fields = when.split()
    for place, text in enumerate(fields):
        found = re.fullmatch(r"(\d*)~(\d*)", text)
        if found is None or len(fields) != 5:
            yield text
            continue
        low, high = (int(given or limit) for given, limit in zip(found.groups(), _LIMITS[place], strict=True))
        if high < low:
            raise ValueError(f"{text} is no range: it ends before it begins")
        drawn = int.from_bytes(blake2b(f"{name}\0{place}".encode(), digest_size=8).digest())
        number = str(low + drawn % (high - low + 1))
        differences.append(f"{text} is {number} for good: cron draws another number whenever it starts")
        yield number


def _differing_rules(cron: Cron) -> Iterator[str]:
    if any(_wraps(name, text) for name, text in zip(_PLACES, cron.fields.texts[1:], strict=True)):
        yield "cron itself refuses a range that wraps; here it goes over the end"
    if cron.fields.last_day or cron.fields.nth:
        yield "cron itself knows neither L nor #"
    if not changes_within_a_year(cron.zone, int(time.time())):
        return
    minute, hour = cron.fields.texts[1:3]
    if (minute.startswith("*") or hour.startswith("*")) and not cron.every_hour:
        yield "when the clock is changed: fires once in a repeated hour and makes up for a skipped one, unlike cron"
    elif cron.every_hour and not hour.startswith("*") and not minute.startswith("*"):
        yield "when the clock is changed: follows elapsed time, as it fires in every hour; cron takes fixed times"


def _wraps(name: str, text: str) -> bool:
    known = NAMES.get(name, {})
    ranges = [[known.get(end, end) for end in found] for found in re.findall(r"(\w+)-(\w+)", text)]
    return any(int(first) > int(last) for first, last in ranges)


def _remarks(entry: Entry, user: str | None) -> Iterator[str]:
    settings = entry.settings
    if settings.get("MAILTO"):
        yield f"output is not mailed to {settings['MAILTO']}: it is in the log of each run"
    elif "MAILTO" not in settings:
        yield f"output is not mailed to {user or 'the user'}: it is in the log of each run"
    if user is None:
        yield "runs as the user of the worker: say whose crontab it is by --user"
    else:
        yield f"runs as {user}: the worker must be allowed to change to that user"
    if entry.is_quiet:
        yield "the '-' that keeps it out of the system's log has no equal"


def task_name(command: str, seed: str) -> str:
    """A name that says what runs, and stays the same as long as `seed` does: `run-parts-cron.daily-3fa9c1`."""
    program = next((words for words in map(_words, _segments(command)) if words), ["task"])
    told = "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", word).strip("-._") for word in program)
    digest = blake2b(seed.encode(), digest_size=3).hexdigest()
    slug = re.sub(r"-+", "-", told).strip("-._")[:40].rstrip("-._") or "task"
    return f"{slug}-{digest}"


def _segments(command: str) -> list[str]:
    return re.split(r"&&|\|\||[;|&{}\n]|\b(?:then|else|do)\b", command)


def _words(segment: str) -> list[str]:
    """The program of a simple command and what it works on; nothing for a condition or another preparation."""
    words = [word for word in segment.split() if not re.match(r"\w+=|\d*[<>]", word)]
    if not words or words[0] in _GUARDS or re.search(r"(^|['\"\s])sleep\s", segment) or words[:2] == ["command", "-v"]:
        return []
    subjects = [word for word in words[1:] if not word.startswith(("-", "/dev/", "'", '"', "$"))]
    return [word.rstrip("/").rpartition("/")[2] for word in (words[0], *subjects[:2])]
