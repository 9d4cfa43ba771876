"""Schedules in words, by our own rules: what cron-descriptor says of day fields and lists is not what we do."""

from __future__ import annotations

from calendar import day_name, month_name
from collections.abc import Sequence

from .cronfields import CronFields
from .instants import datetime_of, format_duration, zone
from .schedule import Schedule

__all__ = ["cron_in_words", "in_words", "listed", "ordinal"]

_MOST_TIMES = 6
_NTH = ("last", "first", "second", "third", "fourth", "fifth")
_DAYS = (day_name[6], *day_name[:6])


def in_words(schedule: Schedule) -> str:
    """One sentence without its end: when it is due, in which zone, and what bounds it."""
    return ", ".join([_trigger(schedule), *_bounds(schedule)])


def _trigger(schedule: Schedule) -> str:
    if cron := schedule.cron_rule:
        return f"{cron_in_words(cron.fields)}, on the clock of {schedule.timezone or 'UTC'}"
    if schedule.every is not None:
        return f"Every {format_duration(schedule.every) if schedule.every >= 60 else f'{schedule.every:g} s'}"
    if schedule.at is not None:
        return f"Once, {_moment(schedule.at, schedule)}"
    if isinstance(schedule.after, list):
        return "After " + listed([one.describe() for one in schedule.after])
    return f"{format_duration(schedule.after or 0)} after its last run ended"


def _bounds(schedule: Schedule) -> list[str]:
    found = []
    if schedule.window is not None:
        found.append(f"only within {schedule.window.replace('-', ' to ')}")
    if schedule.exclude:
        count = len(schedule.exclude)
        found.append(f"except {schedule.exclude[0] if count == 1 else f'on {count} dates'}")
    if schedule.start is not None:
        found.append(f"from {_moment(schedule.start, schedule)}")
    if schedule.end is not None:
        found.append(f"until {_moment(schedule.end, schedule)}")
    if schedule.max_runs is not None:
        found.append("once" if schedule.max_runs == 1 else f"{schedule.max_runs} times at most")
    if schedule.jitter:
        found.append(f"each up to {format_duration(schedule.jitter)} later")
    return found


def _moment(at_ms: int, schedule: Schedule) -> str:
    moment = datetime_of(at_ms).astimezone(zone(schedule.timezone or "UTC"))
    return moment.strftime("%-d %B %Y %H:%M:%S" if moment.second else "%-d %B %Y %H:%M")


def cron_in_words(fields: CronFields) -> str:
    """`At 02:30, Monday to Friday`, `Every 20 minutes from 08:00 to 17:59, on the 1st`."""
    parts = [_times(fields), _days(fields), _months(fields)]
    text = ", ".join(part for part in parts if part)
    return text[:1].upper() + text[1:]


def _times(fields: CronFields) -> str:
    seconds, minutes, hours = fields.seconds, fields.minutes, fields.hours
    if len(seconds) * len(minutes) * len(hours) <= _MOST_TIMES and len(hours) < 24:
        times = [(h, m, s) for h in hours for m in minutes for s in seconds]
        return "at " + listed([_clock(*one, with_seconds=seconds != (0,)) for one in times])
    if seconds != (0,):
        rest = "" if len(minutes) == 60 else f" of {_minute_numbers(fields)}"
        return f"{_seconds(fields)}{rest}{_hours(fields)}"
    if minutes == (0,):
        return _full_hours(fields)
    return f"{_minutes(fields)}{_hours(fields)}"


def _clock(hour: int, minute: int, second: int = 0, *, with_seconds: bool = False) -> str:
    return f"{hour:02}:{minute:02}:{second:02}" if with_seconds else f"{hour:02}:{minute:02}"


def _seconds(fields: CronFields) -> str:
    if len(fields.seconds) == 60:
        return "every second"
    step = _step(fields.texts[0], 60)
    return f"every {step} seconds" if step else f"at second{_plural(fields.seconds)} {_numbers(fields.seconds)}"


def _minute_numbers(fields: CronFields) -> str:
    step = _step(fields.texts[1], 60)
    return f"every {ordinal(step)} minute" if step else f"minute{_plural(fields.minutes)} {_numbers(fields.minutes)}"


def _minutes(fields: CronFields) -> str:
    if len(fields.minutes) == 60:
        return "every minute"
    if step := _step(fields.texts[1], 60):
        return f"every {step} minutes"
    text = f"at minute{_plural(fields.minutes)} {_numbers(fields.minutes)}"
    return f"{text} of every hour" if len(fields.hours) == 24 else text


def _full_hours(fields: CronFields) -> str:
    if len(fields.hours) == 24:
        return "every hour"
    if step := _step(fields.texts[2], 24):
        return f"every {step} hours from 00:00"
    if _is_range(fields.hours):
        return f"every hour from {fields.hours[0]:02}:00 to {fields.hours[-1]:02}:00"
    return "at " + listed([_clock(hour, 0) for hour in fields.hours])


def _hours(fields: CronFields) -> str:
    """Within which hours, after a phrase about minutes."""
    hours = fields.hours
    if len(hours) == 24:
        return ""
    if step := _step(fields.texts[2], 24):
        return f" in every {ordinal(step)} hour from 00:00"
    if len(hours) == 1 or _is_range(hours):
        return f" from {hours[0]:02}:00 to {hours[-1]:02}:59"
    return f" in the hours {_numbers(hours, '02')}"


def _step(text: str, size: int) -> int | None:
    """The step of a field that is one of a star, if the steps go on evenly where the field starts anew."""
    star, _, step = text.partition("/")
    return int(step) if star == "*" and step and size % int(step) == 0 and int(step) < size else None


def _days(fields: CronFields) -> str:
    day, weekday = _day_of_month(fields), _weekday(fields)
    if day is None or weekday is None:
        # where either is enough, and one of the two is every day, so is the whole
        return "" if fields.either else (day or weekday or "")
    if fields.either:
        return f"{day}, or {weekday}: either is enough"
    return f"{day} if it is {weekday.removeprefix('on ')}: both must match"


def _day_of_month(fields: CronFields) -> str | None:
    days = sorted(fields.days)
    if len(days) == 31:
        return None
    star, _, step = fields.texts[3].partition("/")
    if star == "*" and step:
        return f"on every {ordinal(int(step))} day from the 1st"
    if _is_range(days) and not fields.last_day:
        return f"on the {ordinal(days[0])} to {ordinal(days[-1])} of the month"
    names = [ordinal(day) for day in days] + ["last day"] * fields.last_day
    return f"on the {listed(names)} of the month"


def _weekday(fields: CronFields) -> str | None:
    if fields.nth:
        ranked = sorted(fields.nth, key=lambda one: (one[1] or 9, one[0]))
        return "on the " + listed([f"{_NTH[nth]} {_DAYS[day]}" for day, nth in ranked]) + " of the month"
    if len(fields.weekdays) == 7:
        return None
    days = sorted(fields.weekdays, key=lambda day: (day - 1) % 7)
    if len(days) > 2 and _is_range([(day - 1) % 7 for day in days]):
        return f"on {_DAYS[days[0]]} to {_DAYS[days[-1]]}"
    return "on " + listed([_DAYS[day] for day in days])


def _months(fields: CronFields) -> str:
    months = sorted(fields.months)
    if len(months) == 12:
        return ""
    if len(months) > 2 and _is_range(months):
        return f"in {month_name[months[0]]} to {month_name[months[-1]]}"
    return "in " + listed([month_name[month] for month in months])


def _is_range(numbers: Sequence[int]) -> bool:
    return len(numbers) > 1 and numbers[-1] - numbers[0] == len(numbers) - 1


def _plural(numbers: Sequence[int]) -> str:
    return "" if len(numbers) == 1 else "s"


def _numbers(numbers: Sequence[int], form: str = "") -> str:
    if len(numbers) > 3 and _is_range(numbers):
        return f"{numbers[0]:{form}} to {numbers[-1]:{form}}"
    return listed([format(number, form) for number in numbers])


def ordinal(number: int) -> str:
    """`1st`, `22nd`, `13th`."""
    end = "th" if 10 < number % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{end}"


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
