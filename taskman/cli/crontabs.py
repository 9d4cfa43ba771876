"""Writes tasks as a crontab, as far as cron can do what they do; the rest as comments that say why."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..model.cronfields import CronFields, read_fields
from .crontab_tasks import CRON_PATH

__all__ = ["written"]

_PLAIN = re.compile(r"\*(/\d+)?|\w+(-\w+(/\d+)?)?(,\w+(-\w+(/\d+)?)?)*")
_LOST = ("timeout", "retry", "limits", "unique", "max_concurrency", "deadline", "start_deadline", "idle_timeout")
_LOST_OF_SCHEDULE = ("start", "end", "max_runs", "jitter", "window", "exclude", "params")


def written(tasks: Iterable[dict[str, Any]], *, system: bool) -> str:
    """The crontab; with `system`, with the column of the user, root where a task has none."""
    lines = ["# Tasks of Taskman. CRON_TZ is understood by cronie; others run by the clock of the machine.", ""]
    timezone = None
    for task in tasks:
        lines += _header(task)
        for schedule in task.get("schedules") or []:
            try:
                line = _line(task, schedule, system)
            except ValueError as error:
                lines.append(f"# not here: {_shown(schedule)}: {error}")
                continue
            lines += [f"# cron has no equal of '{name}': it is lost" for name in _lost(task, schedule)]
            if schedule.get("timezone") != timezone:
                timezone = schedule.get("timezone")
                lines.append(f"CRON_TZ={timezone}")
            lines.append(line if task.get("enabled", True) else f"# {line}")
        lines.append("")
    return "\n".join(lines)


def _header(task: dict[str, Any]) -> Iterator[str]:
    yield f"# {task['name']}" + ("" if task.get("enabled", True) else " (switched off)")
    if description := " ".join((task.get("description") or "").split()):
        yield f"# {description}"
    if not task.get("schedules"):
        yield "# not here: it has no schedule"


def _lost(task: dict[str, Any], schedule: dict[str, Any]) -> list[str]:
    retry = task.get("retry") or {}
    shown = {name: task.get(name) for name in _LOST} | {"retry": retry.get("max_attempts", 1) > 1}
    found = [name for name in _LOST if shown[name]]
    if (task.get("overlap") or "skip") != "allow":
        found.append("overlap")
    return [*found, *(name for name in _LOST_OF_SCHEDULE if schedule.get(name))]


def _shown(schedule: dict[str, Any]) -> str:
    kind = next(name for name in ("cron", "every", "at", "after") if schedule.get(name) is not None)
    return f"{kind} {schedule[kind]}"


def _line(task: dict[str, Any], schedule: dict[str, Any], system: bool) -> str:
    """The line of one schedule. Raises ValueError that says why cron cannot do it."""
    if not schedule.get("cron"):
        raise ValueError("cron has times of the calendar only")
    if task["type"] != "shell":
        raise ValueError(f"a task of the type {task['type']} is no command")
    when = " ".join(_field(text, values) for text, values in _fields(read_fields(schedule["cron"])))
    user = [task["params"].get("user") or "root"] if system else []
    return " ".join([when, *user, _command(task)])


def _fields(fields: CronFields) -> Sequence[tuple[str, Iterable[int]]]:
    if fields.seconds != (0,):
        raise ValueError("cron knows no seconds")
    if fields.last_day or fields.nth:
        raise ValueError("cron knows neither L nor #")
    values = (fields.minutes, fields.hours, sorted(fields.days), sorted(fields.months), sorted(fields.weekdays))
    return list(zip(fields.texts[1:], values, strict=True))


def _field(text: str, values: Iterable[int]) -> str:
    """The field as it is where any cron reads it so, else the list of its values."""
    wraps = any(first.isdigit() and int(first) > int(last) for first, last in re.findall(r"(\w+)-(\d+)", text))
    named = re.search(r"[a-z]+-|-[a-z]+", text)
    return text if _PLAIN.fullmatch(text) and not wraps and not named else ",".join(map(str, values))


def _command(task: dict[str, Any]) -> str:
    params = task["params"]
    command = params.get("command") or shlex.join(params.get("argv") or [])
    if "\n" in command.strip():
        raise ValueError("its command has several lines: put them into a file")
    shell = params.get("shell", "/bin/sh")
    if params.get("command") and shell != "/bin/sh":
        command = shlex.join([shell, "-c", command])
    variables = {**(task.get("env") or {}), **(params.get("env") or {})}
    own = {"PATH": CRON_PATH, "LOGNAME": params.get("user"), "USER": params.get("user")}
    variables = {name: value for name, value in variables.items() if own.get(name) != value}
    before = [f"export {shlex.join([f'{name}={value}'])};" for name, value in variables.items()]
    if params.get("cwd"):
        before.append(f"cd {shlex.quote(params['cwd'])} || exit;")
    whole = " ".join([*before, command.strip()]).replace("%", "\\%")
    if "\n" in whole:
        raise ValueError("a variable has several lines")
    sent = params.get("stdin")
    return whole if sent is None else whole + "%" + sent.removesuffix("\n").replace("%", "\\%").replace("\n", "%")
