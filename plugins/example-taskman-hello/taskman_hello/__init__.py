"""The `hello` task type: greets somebody, again and again, and tells how far it has come."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import trio
from pydantic import BaseModel, ConfigDict, Field
from quart import Quart, render_template

from taskman import TaskContext, TaskFailed, TaskType, hookimpl

GREETINGS = {"en": "Hello", "de": "Hallo", "fr": "Bonjour"}


class HelloParams(BaseModel):
    """What can be said about a run. The form, the checks of the API and the JSON Schema come from here."""

    model_config = ConfigDict(extra="forbid")

    who: str = Field("world", title="Who", description="whom to greet", min_length=1, max_length=100)
    language: Literal["en", "de", "fr"] = Field("en", title="Language")
    times: int = Field(3, title="Times", description="how often", ge=1, le=1000)
    pause: float = Field(0.2, title="Pause", description="seconds after each greeting", ge=0, le=60)
    guests: list[str] = Field(default_factory=list, title="Guests", description="whom to greet besides")
    command: list[str] = Field(default_factory=list, title="Command", description="a program to run at the end")


class Hello(TaskType):
    """Greets; its result says who was greeted, and how often."""

    name = "hello"
    version = "1.0"
    description = "Greets somebody."
    Params = HelloParams

    async def run(self, context: TaskContext, params: HelloParams) -> dict[str, Any]:
        """Greet everybody; then run the command, if there is one."""
        names = [params.who, *params.guests]
        for number in range(1, params.times + 1):
            context.log(f"{GREETINGS[params.language]}, {' and '.join(names)}!")
            context.result_so_far = {"greeted": names, "times": number}
            await context.progress(number, params.times, "greetings")
            await trio.sleep(params.pause)
        if params.command:
            await self._run_command(context, params.command)
        return {"greeted": names, "times": params.times}

    async def _run_command(self, context: TaskContext, command: list[str]) -> None:
        ended = await context.run_process(command, cwd=context.scratch_dir)
        if ended.exit_code != 0:
            raise TaskFailed("exit", f"{command[0]} ended with {ended.signal or ended.exit_code}")


@hookimpl
def taskman_task_types() -> list[TaskType]:
    """The task types of this plugin: instances."""
    return [Hello()]


@hookimpl
def taskman_run_finished(run: dict[str, Any]) -> None:
    """A run is over, of whatever type: tell somebody. Here, the log of the server hears of failures."""
    if run["type"] == Hello.name and run["state"] == "failed":
        logging.getLogger(__name__).warning("run %s failed: %s", run["id"], run["error"])


@hookimpl
def taskman_template_dirs() -> list[Path]:
    """Where the templates of this plugin are."""
    return [Path(__file__).parent / "templates"]


@hookimpl
def taskman_nav_items() -> list[tuple[str, str]]:
    """What the navigation shows: a label, and where it leads."""
    return [("Hello", "/hello")]


@hookimpl
def taskman_routes(app: Quart) -> None:
    """A page; Taskman sees to it that only who is signed in gets there."""

    @app.get("/hello", endpoint="taskman_hello.page")
    async def page() -> str:
        return await render_template("hello/page.html", greetings=GREETINGS)
