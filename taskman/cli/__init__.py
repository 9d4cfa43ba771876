"""The command line: `taskman`, then a noun and a verb.

Data goes to stdout, everything else to stderr. A command returns its exit code (`exits.Exit`) or nothing. Its module
is imported when the command is used, so that `taskman --help` stays quick.
"""

from __future__ import annotations

import sys
from importlib import import_module

import click

from .. import __version__
from .exits import guard
from .group import NounGroup, examples

__all__ = ["COMMANDS", "main"]

# command -> its module here, and the first sentence of its help, which a test keeps equal
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("server", "Start everything in one process, with an embedded Redis if none is configured."),
    "server": ("server", "Start a server with local workers."),
    "worker": ("worker", "Execute runs for a server, over HTTP(S) alone."),
    "run": ("run", "Run a task, or a command, and follow it."),
    "runs": ("runs", "List, inspect, follow, cancel and delete runs."),
    "logs": ("logs", "Print the log of a run."),
    "tasks": ("tasks", "List, inspect, create and delete tasks."),
    "schedules": ("schedules", "Explain cron expressions and tell when they fire."),
    "timers": ("timers", "List every schedule by its next due time."),
    "import": ("takeover", "Take over what another scheduler does."),
    "queues": ("queues", "List, pause and resume queues."),
    "workers": ("workers", "List, inspect, drain and resume workers."),
    "plugins": ("plugins", "List the plugins installed here, or begin a new one."),
    "tokens": ("tokens", "Create, list and revoke API tokens."),
    "config": ("config", "Show the settings in force and where they come from."),
}
# `import` is no name that Python would let a function have
_ATTRIBUTES = {"import": "import_"}


class _Root(NounGroup):
    """The top group, which knows its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f".{COMMANDS[cmd_name][0]}", __name__)
        command: click.Command = getattr(module, _ATTRIBUTES.get(cmd_name, cmd_name))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, sentence) in COMMANDS.items()])


@click.group(
    cls=_Root,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples("taskman up", "taskman run -- echo hello", "taskman runs list --state failed"),
)
@click.version_option(__version__, message="taskman %(version)s")
def cli() -> None:
    """Run tasks now, later and on schedules, on one machine or on thousands."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(guard(cli))
