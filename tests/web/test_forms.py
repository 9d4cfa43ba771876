"""Forms from params models: every kind that a model can have is shown, read back, and blamed in its own place."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from enum import Enum, IntEnum
from html.parser import HTMLParser
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import httpx2
import pytest
from harness import Server
from planting import HEAD, plant
from pydantic import BaseModel, ConfigDict, Field, SecretStr, create_model

from taskman.errors import InvalidInput
from taskman.model.task import RunRequest
from taskman.model.validation import validate
from taskman.tasktypes import params_schema
from taskman.web.forms import Form
from taskman.web.schemas import fields_of


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Host(BaseModel):
    name: str
    port: int = 22


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]


class Node(BaseModel):
    name: str
    children: list[Node] = []


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]

# annotation, default, the field's kind, what is typed, what the body then has
KINDS: list[tuple[Any, Any, str, str, Any]] = [
    (str, ..., "line", " hi ", "hi"),
    (str, "a\nb", "text", "x\r\ny", "x\ny"),
    (str | None, None, "line", "hi", "hi"),
    (Annotated[str, Field(json_schema_extra={"format": "multi-line"})], "", "text", " a\nb", " a\nb"),
    (int, 5, "number", "7", 7),
    (Annotated[int, Field(ge=1, le=9)], 5, "number", "7", 7),
    (float, 0.5, "number", "2.5", 2.5),
    (int | None, None, "number", "7", 7),
    (int | float, 1, "number", "1.5", 1.5),
    (int | str, 1, "either", "abc", "abc"),
    (int | str, 1, "either", "12", 12),
    (bool | str, "auto", "either", "true", True),
    (Decimal, Decimal("0.1"), "either", "12345678901234567890.12", "12345678901234567890.12"),
    (Decimal, Decimal("0.1"), "either", "2.50", 2.5),
    (float | str, 1.0, "either", "nan", "nan"),
    (bool, False, "flag", "on", True),
    (bool, True, "flag", "", False),
    (bool | None, None, "choice", "no", False),
    (bool | None, None, "choice", "", ...),
    (Literal["a", "b"], "a", "choice", "b", "b"),
    (Literal[1, "b"], "b", "choice", "1", 1),
    (Literal["only"], "only", "choice", "only", ...),
    (Literal["a", "b"] | None, None, "choice", "b", "b"),
    (Colour, Colour.RED, "choice", "blue", "blue"),
    (Level, Level.LOW, "choice", "2", 2),
    (Level | None, None, "choice", "2", 2),
    (list[str], [], "list", "a\nb", ["a", "b"]),
    (list[Colour], [], "list", "red\nblue", ["red", "blue"]),
    (set[int], set(), "numbers", "1, 2", [1, 2]),
    (list[float] | None, None, "numbers", "1.5\n2", [1.5, 2]),
    (tuple[int, str], (1, "a"), "json", '[2, "b"]', [2, "b"]),
    (list[bool], [], "json", "[true]", [True]),
    (dict[str, str], {}, "map", "A=1\nB=x=y", {"A": "1", "B": "x=y"}),
    (dict[str, int], {}, "json", '{"a": 1}', {"a": 1}),
    (dict[str, Any], {}, "json", '{"a": [1]}', {"a": [1]}),
    (Any, None, "json", "[1]", [1]),
    (dt.date, ..., "date", "2026-12-01", "2026-12-01"),
    (dt.datetime, ..., "line", "2026-12-01T09:00:00Z", "2026-12-01T09:00:00Z"),
    (dt.time, dt.time(9), "line", "10:30", "10:30"),
    (dt.timedelta, dt.timedelta(minutes=5), "line", "PT1H", "PT1H"),
    (SecretStr, ..., "secret", " s3cret ", " s3cret "),
    (SecretStr | None, None, "secret", "s3cret", "s3cret"),
    (UUID, ..., "line", "12345678-1234-5678-1234-567812345678", "12345678-1234-5678-1234-567812345678"),
    (Path, ..., "line", "/tmp", "/tmp"),
    (bytes, b"", "line", "x", "x"),
    (Host, ..., "json", '{"name": "h"}', {"name": "h"}),
    (Host | None, None, "json", '{"name": "h"}', {"name": "h"}),
    (list[Host], [], "json", '[{"name": "h"}]', [{"name": "h"}]),
    (Host | str, "x", "json", '"h"', "h"),
    (Pet, ..., "json", '{"kind": "cat", "lives": 9}', {"kind": "cat", "lives": 9}),
    (Node, ..., "json", '{"name": "n"}', {"name": "n"}),
]


def form_of(model: type[BaseModel]) -> Form:
    return Form(params=fields_of(params_schema(model), "params."))


@pytest.mark.parametrize(("annotation", "default", "kind", "typed", "value"), KINDS)
def test_each_kind_is_shown_read_and_shown_again(
    annotation: Any, default: Any, kind: str, typed: str, value: Any
) -> None:
    model = create_model("Params", x=(annotation, default))
    form = form_of(model)
    (field,) = form.sections["params"]
    assert field.kind == kind
    form.take({"params.x": typed})
    body, faults = form.read()
    assert faults == []
    sent = body.get("params", {})
    assert sent == ({} if value is ... else {"x": value})
    assert type(sent.get("x")) is type(None if value is ... else value)
    model.model_validate(sent)
    again = form_of(model)
    again.show({"params": sent})
    if again.fields["params.x"].value:
        reread, _ = again.read()
        assert reread == body


@pytest.mark.parametrize(("annotation", "default", "kind", "typed", "value"), KINDS)
def test_a_form_left_as_it_is_means_the_defaults(
    annotation: Any, default: Any, kind: str, typed: str, value: Any
) -> None:
    model = create_model("Params", x=(annotation, default))
    form = form_of(model)
    form.take({name: field.value for name, field in form.fields.items()})
    sent = form.read()[0].get("params", {})
    if default is ...:
        assert sent == {}
    else:
        assert model.model_validate(sent) == model()


def test_help_says_the_bounds_and_a_json_field_shows_the_shape() -> None:
    class Params(BaseModel):
        times: int = Field(3, ge=1, le=10, description="how often")
        ratio: float = Field(0.5, gt=0, le=1)
        hosts: list[Host] = Field(default_factory=list)
        pet: Pet | None = None

    fields = form_of(Params).fields
    assert fields["params.times"].help == "how often; 1 to 10"
    assert fields["params.ratio"].help == "1 or less"
    assert fields["params.hosts"].example == '[\n  {\n    "name": "…",\n    "port": 22\n  }\n]'
    assert '"kind": "cat"' in fields["params.pet"].example


def test_aliases_are_the_names_and_may_hold_dots() -> None:
    class Params(BaseModel):
        model_config = ConfigDict(extra="forbid")
        from_: str = Field(alias="from")
        dotted: int = Field(1, alias="a.b")

    form = form_of(Params)
    assert list(form.fields) == ["params.from", "params.a%2Eb"]
    form.take({"params.from": "x", "params.a%2Eb": "many"})
    with pytest.raises(InvalidInput) as caught:
        form.body(RunRequest, lambda params: validate(Params, params, "/params"))
    form.blame(fault for fault in caught.value.faults if fault.pointer.startswith("/params"))
    assert form.fields["params.a%2Eb"].faults
    assert form.fields["params.a%2Eb"].value == "many"
    form.take({"params.from": "x", "params.a%2Eb": "3"})
    assert form.read()[0] == {"params": {"from": "x", "a.b": 3}}


def test_a_model_that_refers_to_itself_has_its_fields() -> None:
    assert [field.name for field in form_of(Node).sections["params"]] == ["params.name", "params.children"]


def test_a_secret_is_not_in_the_page_as_a_default() -> None:
    class Params(BaseModel):
        word: SecretStr = SecretStr("hunter2")

    (field,) = form_of(Params).sections["params"]
    assert (field.default, field.value, field.example) == ("", "", "")


PLUGIN = """
from typing import Literal
from pydantic import ConfigDict, Field, SecretStr
from datetime import date

class Host(BaseModel):
    name: str
    port: int = Field(22, ge=1)

class Sink(TaskType):
    name = "sink"
    class Params(BaseModel):
        model_config = ConfigDict(extra="forbid")
        when: date
        level: Literal[1, 2] = 1
        host: Host | None = None
        hosts: list[Host] = []
        word: SecretStr | None = None
        source: str = Field("x", alias="from", max_length=3)
        tags: dict[str, str] = {}
        maybe: bool | None = None
        count: int | str = 1
    async def run(self, context, params):
        return params.model_dump(mode="json", by_alias=True, exclude={"word"})

@hookimpl
def taskman_task_types(): return [Sink()]
"""


class Controls(HTMLParser):
    """The fields of a page: their values, and which of them are wrong and why."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self.kinds: dict[str, str] = {}
        self.faults: dict[str, str] = {}
        self._select = self._area = self._fault = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "input" and "name" in found and found.get("type") not in ("radio", "checkbox"):
            self.values[found["name"]], self.kinds[found["name"]] = found.get("value", ""), found.get("type", "text")
        elif tag in ("input",) and "checked" in found:
            self.values[found["name"]] = found["value"]
        elif tag == "select":
            self._select = found["name"]
            self.kinds[self._select] = "select"
        elif tag == "option" and "selected" in found:
            self.values[self._select] = found["value"]
        elif tag == "textarea":
            self._area = found["name"]
            self.values[self._area] = ""
            self.kinds[self._area] = "textarea"
        elif tag == "p" and found.get("class") == "fault":
            self._fault = found["id"].removesuffix("-faults")

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self.values[self._area] = self.values[self._area].removeprefix("\n")
            self._area = ""
        if tag == "p":
            self._fault = ""

    def handle_data(self, data: str) -> None:
        if self._area:
            self.values[self._area] += data
        if self._fault:
            self.faults[self._fault] = self.faults.get(self._fault, "") + data.strip()


@pytest.fixture
def browser(make_server: Callable[..., Server], tmp_path: Path) -> Any:
    plant(tmp_path / "site", "sink", HEAD + PLUGIN)
    server = make_server(environment={"PYTHONPATH": str(tmp_path / "site")})
    with httpx2.Client(base_url=server.url, timeout=30, trust_env=False, follow_redirects=True) as client:
        client.get(server.link)
        client.api = server.client()  # type: ignore[attr-defined]
        yield client
        client.api.close()  # type: ignore[attr-defined]


WRONG = {
    "params.when": "soon",
    "params.host": '{"name": "h", "port": 0}',
    "params.hosts": "[{]",
    "params.from": "too long",
    "params.tags": "no equals sign",
    "params.word": "s3cret",
    "params.level": "2",
}
RIGHT = {**WRONG, "params.when": "2026-12-01", "params.host": '{"name": "h"}', "params.hosts": '[{"name": "i"}]'}
RIGHT |= {"params.from": "abc", "params.tags": "A=1", "params.count": "12", "params.maybe": "no"}
RESULT = {
    "when": "2026-12-01",
    "level": 2,
    "host": {"name": "h", "port": 22},
    "hosts": [{"name": "i", "port": 22}],
    "from": "abc",
    "tags": {"A": "1"},
    "maybe": False,
    "count": 12,
}


@pytest.mark.parametrize("path", ["/runs/new", "/tasks/new"])
def test_faults_come_back_to_their_fields_with_what_was_typed(browser: Any, path: str) -> None:
    page = Controls(browser.get(f"{path}?type=sink").text)
    assert page.kinds["params.when"] == "date"
    assert page.kinds["params.word"] == "password"
    assert page.kinds["params.level"] == page.kinds["params.maybe"] == "select"
    assert page.kinds["params.hosts"] == "textarea"
    reply = browser.post(path, data={**page.values, **WRONG, "name": "sunk"})
    assert reply.status_code == 422
    again = Controls(reply.text)
    assert {name: again.values.get(name) for name in WRONG} == WRONG
    wrong = {name: fault for name, fault in again.faults.items() if name.startswith("params-")}
    assert set(wrong) == {"params-when", "params-host", "params-hosts", "params-from", "params-tags"}
    assert wrong["params-host"].startswith("port: Input should be greater than or equal to 1")
    assert "this is no JSON" in wrong["params-hosts"].lower() or "no JSON" in wrong["params-hosts"]


def test_a_run_of_every_kind_from_its_form_and_again_from_the_run(browser: Any) -> None:
    page = Controls(browser.get("/runs/new?type=sink").text)
    run_id = str(browser.post("/runs/new", data={**page.values, **RIGHT}).url).rpartition("/")[2]
    ended = browser.api.get(f"/runs/{run_id}", params={"wait": "20"}).json()
    assert (ended["state"], ended["result"]) == ("succeeded", RESULT)
    again = Controls(browser.get(f"/runs/new?from={run_id}").text)
    second = str(browser.post("/runs/new", data=again.values).url).rpartition("/")[2]
    repeated = browser.api.get(f"/runs/{second}", params={"wait": "20"}).json()
    assert (repeated["result"], repeated["params"]["word"]) == (RESULT, "s3cret")


def test_a_task_of_every_kind_survives_being_edited(browser: Any) -> None:
    page = Controls(browser.get("/tasks/new?type=sink").text)
    browser.post("/tasks/new", data={**page.values, **RIGHT, "name": "sunk"})
    before = browser.api.get("/tasks/sunk").json()
    edit = Controls(browser.get("/tasks/sunk/edit").text)
    browser.post("/tasks/sunk/edit", data={**edit.values, "description": "edited"})
    after = browser.api.get("/tasks/sunk").json()
    assert (after["params"], after["description"]) == (before["params"], "edited")
