"""The fields of a cron expression: read with croniter, checked by us first, since it lets much nonsense pass.

It takes `15W` for 15, `5-5` for everything and `*/100` for 0, and its messages do not say which field is wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches

from croniter import CroniterError, croniter

__all__ = ["MACROS", "NAMES", "CronFields", "read_fields"]

MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
NAMES = {
    "month": dict(zip(_MONTHS, range(1, 13), strict=True)),
    "day of week": dict(zip(_WEEKDAYS, range(7), strict=True)),
}
MAX_LENGTH = 256

_FIELDS = ("second", "minute", "hour", "day of month", "month", "day of week")
_RANGES = {
    "second": (0, 59),
    "minute": (0, 59),
    "hour": (0, 23),
    "day of month": (1, 31),
    "month": (1, 12),
    "day of week": (0, 7),
}
_TELL = {"month": "1-12 or JAN-DEC", "day of week": "0-7 or SUN-SAT, such as FRI#2 or L5", "day of month": "1-31 or L"}
_PART = re.compile(r"(?:\*|(\w+)(?:-(\w+))?)(?:/(\w+))?")
_NTH = re.compile(r"(\w+)#(\w+)|l(\w+)")


@dataclass(frozen=True, eq=False)
class CronFields:
    """What an expression says. Weekdays are 0 (Sunday) to 6; in `nth`, 0 stands for the last one of the month.

    `either`: day of month and day of week are both restricted, and one of them is enough.
    """

    texts: tuple[str, ...]
    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    last_day: bool
    months: frozenset[int]
    weekdays: frozenset[int]
    nth: frozenset[tuple[int, int]]
    either: bool


def read_fields(expression: str) -> CronFields:
    """The fields of an expression. Raises ValueError that names the field and shows something near that is right."""
    texts = _texts(expression)
    for name, text in zip(_FIELDS, texts, strict=True):
        for part in text.split(","):
            _check(name, text, part)
    try:
        plain = (_plain(name, text) for name, text in zip(_FIELDS, texts, strict=True))
        expanded, nth = croniter.expand(" ".join(plain), second_at_beginning=True)
    except (CroniterError, ValueError, KeyError, IndexError):
        raise ValueError(f"'{expression}' is no cron expression: its fields do not fit together") from None
    minutes, hours, days, months, weekdays, seconds = expanded
    ordinals = frozenset((day % 7, 0 if one == "l" else int(one)) for day, found in nth.items() for one in found)
    return CronFields(
        texts=texts,
        seconds=_values(seconds, 0, 59),
        minutes=_values(minutes, 0, 59),
        hours=_values(hours, 0, 23),
        days=frozenset(_values(days, 1, 31)),
        last_day="l" in days,
        months=frozenset(_values(months, 1, 12)),
        weekdays=frozenset() if ordinals else frozenset(_values(weekdays, 0, 6)),
        nth=ordinals,
        either=not (texts[3].startswith("*") or texts[5].startswith("*")),
    )


def _values(found: list[int | str], first: int, last: int) -> tuple[int, ...]:
    if "*" in found:
        return tuple(range(first, last + 1))
    return tuple(sorted({one for one in found if isinstance(one, int)}))


def _plain(name: str, text: str) -> str:
    """What croniter reads as we mean it: `5-5` and `FRI-5` are 5, not everything."""
    return ",".join(_unranged(name, part) for part in text.split(","))


def _unranged(name: str, part: str) -> str:
    if name == "day of week" and (nth := _NTH.fullmatch(part)):
        day, number, last = nth.groups()
        return f"{_known(name, day) % 7}#{number}" if number else f"l{_known(name, last) % 7}"
    first, dash, last = part.partition("/")[0].partition("-")
    if not dash:
        return part
    ends = _known(name, first), _known(name, last)
    is_sunday = name == "day of week" and ends == (7, 0)
    return first if ends[0] == ends[1] or is_sunday else part


def _known(name: str, word: str) -> int:
    """The number of a word that has been checked."""
    number = NAMES.get(name, {}).get(word)
    return int(word) if number is None else number


def _texts(expression: str) -> tuple[str, ...]:
    """Six fields in lower case, the seconds first."""
    if len(expression) > MAX_LENGTH:
        raise ValueError(f"a cron expression has at most {MAX_LENGTH} characters")
    lowered = expression.strip().lower()
    if lowered.startswith("@"):
        return ("0", *_macro(expression, lowered).split())
    fields = lowered.split()
    if len(fields) in (5, 6):
        return (*("0",) * (6 - len(fields)), *fields)
    if len(fields) == 7:
        near = " ".join(expression.split()[:6])
        raise ValueError(
            f"'{expression}' has 7 fields: leave the year away, '{near}', and bound it by 'start' and 'end'"
        )
    raise ValueError(
        f"'{expression}' has {len(fields)} field{'' if len(fields) == 1 else 's'}: write five "
        "(minute hour day month weekday), such as '30 2 * * 1-5', or six with the seconds first"
    )


def _macro(expression: str, lowered: str) -> str:
    if lowered in MACROS:
        return MACROS[lowered]
    word, _, rest = lowered.partition(" ")
    if word == "@every":
        raise ValueError(f"'{expression}' is no cron expression here: write it as 'every': '{rest.strip() or '5m'}'")
    if word == "@reboot":
        raise ValueError("'@reboot' has no equal here: nothing is due when a machine starts")
    close = get_close_matches(lowered, MACROS, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"use {', '.join(sorted(MACROS))}"
    raise ValueError(f"there is no macro '{expression.strip()}': {hint}")


def _check(name: str, text: str, part: str) -> None:
    """Raises ValueError when this part of a list is not ours to understand."""
    if name == "day of month" and part == "l":
        return
    if name == "day of week" and (nth := _NTH.fullmatch(part)):
        _check_nth(text, *nth.groups())
        return
    found = _PART.fullmatch(part)
    if found is None:
        raise _refused(name, text, _advice(name, part))
    first, last, step = found.groups()
    ends = [_number(name, text, part, one) for one in (first, last) if one is not None]
    if step is not None:
        _check_step(name, text, part, step, ends)


def _number(name: str, text: str, part: str, word: str) -> int:
    low, high = _RANGES[name]
    names = NAMES.get(name, {})
    if word in names:
        return names[word]
    if not (word.isascii() and word.isdigit()):
        raise _refused(name, text, _advice(name, part))
    if not low <= int(word) <= high:
        raise _refused(name, text, f"{word} is out of range, {_tell(name)}")
    return int(word)


def _check_step(name: str, text: str, part: str, step: str, ends: list[int]) -> None:
    low, high = _RANGES[name]
    span = high - low + (name != "day of week")
    if not (step.isascii() and step.isdigit()) or not 1 <= int(step) <= span:
        before = part.partition("/")[0]
        raise _refused(name, text, f"a step is a number from 1 to {span}, such as {before}/5")
    if len(ends) == 2 and ends[0] > ends[1] and not (name == "day of week" and ends[1] == 0):
        first, last = part.partition("/")[0].split("-")
        raise _refused(name, text, f"a range that wraps takes no step: write {first}-{high}/{step},{low}-{last}/{step}")
    if len(ends) == 2 and ends[0] > ends[1]:
        raise _refused(name, text, "a range that wraps takes no step: write 7 for the Sunday at its end")


def _check_nth(text: str, day: str | None, number: str | None, last: str | None) -> None:
    name = "day of week"
    _number(name, text, text, day or last or "")
    weekday = (day or "").upper()
    if number is not None and number not in ("1", "2", "3", "4", "5"):
        raise _refused(
            name, text, f"a month has the 1st to 5th of a weekday: write {weekday}#1 to {weekday}#5, or L{weekday}"
        )
    if any(_NTH.fullmatch(one) is None for one in text.split(",")):
        raise _refused(name, text, "days such as FRI#2 and plain days do not mix: make two schedules")


def _tell(name: str) -> str:
    low, high = _RANGES[name]
    return f"write {_TELL.get(name, f'{low}-{high}')}"


def _advice(name: str, part: str) -> str:
    """What was probably meant."""
    if "?" in part:
        return "write * for any"
    if "~" in part:
        return "write a number, and 'jitter' to spread it"
    if re.match(r"(^|,)[rh]($|[(/])", part):
        return "write a number, and 'jitter' to spread it; hashed and random values are not supported"
    if name == "day of month" and re.fullmatch(r"\d+w|l?w|wl", part):
        return "the nearest working day (W) is not supported: write a day such as 15, or weekdays such as MON-FRI"
    if name == "day of month" and re.fullmatch(r"l-\d+", part):
        return "days before the last are not supported: write L"
    if name == "day of week" and (found := re.fullmatch(r"([a-z]+|\d)l", part)):
        return f"write L{found[1].upper()} for the last one of the month"
    if name == "day of week" and part == "l":
        return "write SAT, or such as LFRI for the last Friday of the month"
    near = re.sub(r"[a-z]+", lambda word: _near(name, word[0]), part)
    if near != part:
        return f"did you mean {near.upper()}? {_tell(name).replace('write', 'Write')}"
    return _tell(name)


def _near(name: str, word: str) -> str:
    """The name that a word stands for in other places: `mo`, `monday`, `sept`; else the word."""
    names = list(NAMES.get(name, ()))
    begun = [one for one in names if word.startswith(one) or (len(word) == 2 and one.startswith(word))]
    return (begun or get_close_matches(word, names, n=1) or [word])[0]


def _refused(name: str, text: str, advice: str) -> ValueError:
    return ValueError(f"the {name} field '{text.upper()}' is not understood: {advice}")
