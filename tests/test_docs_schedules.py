"""docs/schedules.md says what the code does: its examples are run."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from taskman.model.cron import Cron
from taskman.model.cronfields import MACROS, read_fields
from taskman.model.instants import parse_instant
from taskman.model.inwords import cron_in_words
from taskman.model.misfire import plan_due
from taskman.model.schedule import Schedule
from taskman.model.validation import validate

TEXT = (Path(__file__).parent.parent / "docs" / "schedules.md").read_text()


def rows(header: str) -> list[list[str]]:
    """The rows of the table that begins with this header."""
    table = TEXT.partition(f"\n{header}\n")[2].partition("\n\n")[0]
    assert table, header
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]]


@pytest.mark.parametrize(("cron", "words"), rows("| cron | in words |"))
def test_expressions_are_told_so(cron: str, words: str) -> None:
    assert cron_in_words(read_fields(cron.strip("`"))) == words


@pytest.mark.parametrize(("cron", "message"), rows("| refused | because |"))
def test_expressions_are_refused_so(cron: str, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        Cron(cron.strip("`"), ZoneInfo("UTC"))


@pytest.mark.parametrize(("cron", "zone", "around", "fires"), rows("| cron | zone | around | fires |"))
def test_changed_clocks_do_so(cron: str, zone: str, around: str, fires: str) -> None:
    day = datetime.fromisoformat(around).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    rule, at, found = Cron(cron.strip("`"), ZoneInfo(zone)), int((day - timedelta(seconds=1)).timestamp() * 1000), []
    for _ in fires.split(", "):
        following = rule.next(at)
        assert following is not None
        at = following
        found.append(datetime.fromtimestamp(at / 1000, ZoneInfo(zone)).isoformat(" ", "minutes"))
    assert [re.sub(r"([+-]\d\d:\d\d)$", r" \1", one) for one in found] == fires.split(", ")


@pytest.mark.parametrize("kind", [row[0] for row in rows("| kind | means |")])
def test_every_kind_is_taken(kind: str) -> None:
    assert validate(Schedule, json.loads(kind.strip("`"))).kind in kind


def test_every_option_is_documented() -> None:
    kinds = {"cron", "every", "at", "after"}
    documented = {name for row in rows("| option | means | default |") for name in re.findall(r"`(\w+)`", row[0])}
    assert documented == set(Schedule.model_fields) - kinds
    for name in kinds:
        assert f'{{"{name}": ' in TEXT


def test_every_macro_is_documented() -> None:
    assert set(re.findall(r"`(@\w+)`", TEXT.partition("Macros:")[2].partition("\n")[0])) == set(MACROS)


@pytest.mark.parametrize(("catchup", "fires"), [("last", 1), ("all", 10), ("skip", 0)])
def test_absences_end_so(catchup: str, fires: int) -> None:
    start = parse_instant("2027-01-15T08:00:00Z")
    schedule = validate(Schedule, {"cron": "*/5 * * * *", "catchup": catchup}).settled("UTC", start)
    assert len(plan_due(schedule, start, start + 47 * 60_000).fires) == fires
