"""The `shell` task type: a command line through a shell, or a program with its arguments."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from taskman import Fatal, ProcessResult, TaskContext, TaskFailed, TaskType, hookimpl


class ShellParams(BaseModel):
    """Exactly one of `command` and `argv`; the rest is optional."""

    model_config = ConfigDict(extra="forbid")

    command: str | None = Field(None, title="Command", description="a command line, run through the shell")
    argv: list[str] | None = Field(None, title="Arguments", description="a program and its arguments, without a shell")
    shell: str = Field("/bin/sh", title="Shell", description="the shell that runs the command")
    cwd: str | None = Field(None, title="Directory", description="where it runs; default: the worker's directory")
    env: dict[str, str] = Field(default_factory=dict, title="Environment", description="variables to add")
    stdin: str | None = Field(None, title="Input", description="text for its standard input")
    success_codes: list[int] = Field([0], title="Success codes", description="exit codes that count as success")
    user: str | None = Field(None, title="User", description="the user to run as, where the worker may change it")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.command is None) == (self.argv is None):
            raise ValueError("give exactly one of 'command' and 'argv'")
        if self.command is not None and not self.command.strip():
            raise ValueError("'command' is empty: write what to run")
        if self.argv is not None and (not self.argv or not self.argv[0]):
            raise ValueError("'argv' is empty: name the program to run")
        texts = [self.command or "", self.cwd or "", self.shell, *(self.argv or []), *self.env, *self.env.values()]
        if any("\0" in text for text in texts):
            raise ValueError("zero bytes cannot be passed to a process")
        return self


class Shell(TaskType):
    """Runs a process with its output live in the log; its whole tree ends with the run."""

    name = "shell"
    version = "1.0"
    description = "Runs a command or a program."
    resumable = True
    Params = ShellParams

    async def run(self, context: TaskContext, params: ShellParams) -> dict[str, Any]:
        """The exit code, signal, peak memory and processor time of the process tree."""
        argv = params.argv or [params.shell, "-c", params.command or ""]
        stdin = None if params.stdin is None else params.stdin.encode()
        try:
            ended = await context.run_process(argv, cwd=params.cwd, env=params.env, stdin=stdin, user=params.user)
        except OSError as error:
            raise Fatal(f"cannot start '{argv[0]}': {error.strerror or error}") from error
        return _judge(ended, params.success_codes)


def _judge(ended: ProcessResult, success_codes: list[int]) -> dict[str, Any]:
    result = {
        "exit_code": ended.exit_code,
        "signal": ended.signal,
        "max_rss_bytes": ended.max_rss_bytes,
        "cpu_s": ended.cpu_s,
    }
    if ended.signal is not None:
        raise TaskFailed("signal", f"ended by {ended.signal}", result)
    if ended.exit_code not in success_codes:
        raise TaskFailed("exit", f"exit code {ended.exit_code}", result)
    return result


@hookimpl
def taskman_task_types() -> list[TaskType]:
    """The one type of this plugin."""
    return [Shell()]
