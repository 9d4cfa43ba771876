"""The documents say what the code does: settings, addresses, error codes, states, commands."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest

from taskman import errors
from taskman.config import SETTINGS
from taskman.model.states import EVENTS, FINAL, REASONS
from taskman.plugins import discover

ROOT = Path(__file__).parent.parent


def document(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_is_documented(setting: object) -> None:
    row = f"| `{setting.variable}` | {setting.help} |"  # type: ignore[attr-defined]
    assert row in document("docs/settings.md")


def test_every_arrow_of_the_diagram_is_one_of_the_code() -> None:
    drawn = set(re.findall(r"^    (\S+) --> (\S+): (\w+)$", document("docs/state-machine.md"), re.MULTILINE))
    coded = {
        ("[*]" if source is None else str(source), str(target), event)
        for event, (sources, target) in EVENTS.items()
        for source in sources
    }
    assert drawn == coded


def test_every_reason_and_final_state_is_documented() -> None:
    text = document("docs/state-machine.md")
    for reason, sentence in REASONS.items():
        assert f"| `{reason}` | {sentence} |" in text
    for state in FINAL:
        assert f"`{state}`" in text


def test_every_address_of_the_api_is_documented() -> None:
    text = document("docs/api.md")
    for path in (ROOT / "taskman" / "web" / "api").glob("*.py"):
        source = path.read_text()
        prefix = (re.findall(r'url_prefix="(/\w+)"', source) or [""])[0]
        for method, route in re.findall(r'@blueprint\.(get|post|put|patch|delete)\("([^"]*)"\)', source):
            address = re.sub(
                r"<(\w+)>", lambda name: "{" + re.sub("^(run|token|worker)_", "", name[1]) + "}", prefix + route
            )
            assert f"`{method.upper()} {address}`" in text, address


def test_every_error_code_that_the_api_can_send_is_documented() -> None:
    text = document("docs/api.md")
    for code in ("bad_request", "unsupported_media_type", "method_not_allowed", "not_acceptable", "internal", "store"):
        assert f"`{code}`" in text
    for kind in (errors.InvalidInput, errors.NotFound, errors.Conflict, errors.Forbidden, errors.StoreUnavailable):
        assert f"`{kind.code}`" in text


def test_the_drawn_tree_of_errors_is_the_real_one() -> None:
    drawn = set(re.findall(r"(?:├──|└──|^)\s*([A-Z]\w+)", errors.__doc__ or "", re.MULTILINE)) - {"Every"}
    real = {name for name in errors.__all__ if isinstance(getattr(errors, name), type)} - {"Fault"}
    assert drawn == real


@pytest.mark.parametrize("entry", entry_points(group="taskman"), ids=lambda entry: entry.name)
def test_every_param_of_our_task_types_is_documented(entry: EntryPoint) -> None:
    registry = discover([entry])
    for name, task_type in registry.task_types.items():
        found = re.search(rf"^## `{name}`$(.*?)(?=^## |\Z)", document("docs/task-types.md"), re.MULTILINE | re.DOTALL)
        assert found is not None, name
        for param in task_type.Params.model_json_schema()["properties"]:
            assert f"| `{param}` |" in found[1], f"{name}: {param}"
