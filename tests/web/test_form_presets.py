"""What is preset in a form, and what is sent of it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel
from pydantic import Field as Param

from taskman import Duration
from taskman.web.forms import Form
from taskman.web.schemas import fields_of


class Params(BaseModel):
    """A field of each look that has a preset or an example."""

    url: str = Param(examples=["https://example.com/"])
    method: Literal["GET", "POST"] = "GET"
    verify: bool = True
    loose: bool = False
    sure: bool
    wait: Duration = 90.0


def form() -> Form:
    return Form(params=fields_of(Params.model_json_schema(), "params."))


def test_a_duration_is_asked_for_as_people_write_it() -> None:
    field = form().fields["params.wait"]
    assert (field.kind, field.default) == ("duration", "90s")


def test_an_example_stands_in_the_field() -> None:
    assert form().fields["params.url"].example == "https://example.com/"


def test_what_is_left_as_it_was_preset_is_not_sent() -> None:
    typed = form()
    typed.take({"params.method": "GET", "params.verify": "on"})
    assert typed.read() == ({"params": {"sure": False}}, [])
    assert not any(one.shows_something for one in typed.fields.values())


def test_what_differs_from_its_preset_is_sent_and_shown() -> None:
    typed = form()
    typed.take({"params.method": "POST", "params.loose": "on", "params.sure": "on", "params.wait": "5m"})
    given = {"method": "POST", "verify": False, "loose": True, "sure": True, "wait": "5m"}
    assert typed.read() == ({"params": given}, [])
    names = {one.name.removeprefix("params.") for one in typed.fields.values() if one.shows_something}
    assert names == set(given)
