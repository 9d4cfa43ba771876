"""`taskman run`: ask for a run and, unless it is detached, follow it to its end."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from typing import Any

import click

from ..client import Client, Document, Run
from ..errors import ServerUnreachable
from .exits import Exit
from .group import examples
from .logs import print_lines
from .output import duration, notice, print_json, styled
from .session import known_task, session
from .typed import instant, object_from, parameters

__all__ = ["run", "say_how_it_ended"]

_ARGV = "taskman.argv"


class _RunCommand(click.Command):
    """Keeps what follows `--` apart: it is a command to run, not options of ours."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        place = args.index("--") if "--" in args else len(args)
        ctx.meta[_ARGV] = args[place + 1 :]
        if place == len(args) - 1:
            raise click.UsageError("nothing follows --: write a command, as in taskman run -- echo hello", ctx)
        ours = args[:place]
        try:
            rest = super().parse_args(ctx, list(ours))
        except click.NoSuchOption as error:
            raise click.UsageError(error.format_message().rstrip(".") + _as_command(ours), ctx) from None
        if ctx.args and not ctx.resilient_parsing:
            extra = f"'{ctx.args[0]}' is one word too many"
            raise click.UsageError(extra + _as_command(ours), ctx)
        return rest

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] TASK")
        for form in ("[OPTIONS] -t TYPE", "[OPTIONS] -- CMD ARG..."):
            formatter.write_usage(ctx.command_path, form, prefix="       ")


def _as_command(args: list[str]) -> str:
    if args[0].startswith("-"):
        return ""
    return f"; to run a command, put -- before it:\n  taskman run -- {shlex.join(args)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What was asked for on the command line."""

    task: str | None
    task_type: str | None
    pairs: tuple[str, ...]
    params_file: str | None
    detach: bool
    delay: str | None
    at: str | None
    queue: str | None
    priority: int | None
    place: str | None
    timeout: str | None
    retries: int | None
    idempotency_key: str | None
    as_json: bool
    argv: list[str]

    def check(self) -> None:
        """Refuse what contradicts itself."""
        if sum(map(bool, (self.task, self.task_type, self.argv))) != 1:
            raise click.UsageError(
                "name one thing to run: a TASK, or -t TYPE with its parameters, or -- CMD ARG...\n"
                "  taskman run -- echo hello",
                click.get_current_context(),
            )
        if self.delay and self.at:
            raise click.UsageError("give --in or --at, not both", click.get_current_context())

    def body(self) -> Document:
        """The body of the request."""
        params = {
            **({"argv": self.argv} if self.argv else {}),
            **(object_from(self.params_file) if self.params_file else {}),
            **parameters(self.pairs),
        }
        fields = {
            "type": "shell" if self.argv else self.task_type,
            "params": params if params or not self.task else None,
            "delay": self.delay,
            "at": instant(self.at) if self.at else None,
            "queue": self.queue,
            "priority": self.priority,
            "place": self.place,
            "timeout": self.timeout,
            "retry": None if self.retries is None else {"max_attempts": self.retries + 1},
        }
        return {name: value for name, value in fields.items() if value is not None}

    def submit(self, client: Client, body: Document) -> Run:
        """Send it; the run that came of it."""
        if not self.task:
            return client.submit(idempotency_key=self.idempotency_key, **body)
        others = f"all tasks:  taskman tasks list\n  a command:  taskman run -- {shlex.quote(self.task)}"
        with known_task(client, self.task, others):
            return client.run_task(self.task, idempotency_key=self.idempotency_key, **body)


@click.command(
    cls=_RunCommand,
    context_settings={"allow_extra_args": True},
    epilog=examples(
        "taskman run nightly -p day=2026-12-01",
        'taskman run -t http -p url=https://example.com -p \'headers={"X-A": "1"}\'',
        "taskman run --in 10m --detach -- pg_dump -f /backup/now.sql shop",
        'echo \'{"who": "world"}\' | taskman run greet --params -',
    ),
)
@click.argument("task", required=False)
@click.option("-t", "--type", "task_type", metavar="TYPE", help="Run this task type, without a saved task.")
@click.option(
    "-p",
    "--param",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="A parameter; the value is JSON or text. May repeat.",
)
@click.option(
    "--params", "params_file", metavar="FILE|-", help="An object of parameters: JSON, or TOML in a .toml file."
)
@click.option("-d", "--detach", is_flag=True, help="Print the id and do not wait.")
@click.option("--in", "delay", metavar="10m", help="Start after this long.")
@click.option("--at", metavar="TIME", help="Start then: '2026-12-01 09:00' (local), or RFC 3339.")
@click.option("--queue", metavar="Q", help="The queue to wait in.")
@click.option("--priority", type=int, metavar="N", help="Higher goes first.")
@click.option(
    "--place", type=click.Choice(["any", "all"]), help="all: once on each worker that could run it, not on one of them."
)
@click.option("--timeout", metavar="5m", help="The longest that an attempt may take.")
@click.option("--retries", type=click.IntRange(0, 999), metavar="N", help="Try again so often when it fails.")
@click.option("--idempotency-key", metavar="KEY", help="The same key and request give the same run, not a second one.")
@click.option("--json", "as_json", is_flag=True, help="Print the run as JSON, instead of its log.")
def run(**options: Any) -> int:
    """Run a task, or a command, and follow it.

    Prints the log as it is written (stdout to stdout, stderr to stderr), and exits with 0 if the run succeeded,
    with 6 if not. Ctrl-C stops the watching, not the run.
    """
    order = _Order(argv=click.get_current_context().meta[_ARGV], **options)
    order.check()
    body = order.body()
    with session() as client:
        asked = order.submit(client, body)
        return _detach(asked, order.as_json) if order.detach else _follow(client, asked.id, order.as_json)


def _detach(asked: Run, as_json: bool) -> int:
    if as_json:
        print_json(asked.raw)
    else:
        click.echo(asked.id)
    notice(styled(f"follow it: taskman logs -f {asked.id}", err=True, dim=True))
    return Exit.OK


def _follow(client: Client, run_id: str, as_json: bool) -> int:
    try:
        if not as_json:
            is_cut = print_lines(client.logs(run_id, follow=True))
            if is_cut and sys.stdout.isatty():
                notice("")  # so that what follows begins on a line of its own
        final = client.wait(run_id)
    except KeyboardInterrupt:
        notice(f"\nthe run goes on.\n  follow it: taskman logs -f {run_id}\n  stop it:   taskman runs cancel {run_id}")
        return Exit.INTERRUPTED
    except ServerUnreachable as error:
        raise ServerUnreachable(f"{error}\n  The run goes on. Follow it: taskman logs -f {run_id}") from error
    if as_json:
        print_json(final.raw)
    return say_how_it_ended(final)


def say_how_it_ended(run: Run) -> int:
    """Print a line on stderr about a final run, and what to look at next; 0 when it succeeded, else 6."""
    colour = "green" if run.has_succeeded else "red"
    took = f" after {duration(run.raw['started_at'], run.raw['finished_at'])}" if run.started_at else ""
    notice(f"run {run.id} {styled(run.state, err=True, fg=colour)}{_cause(run)}{took}")
    if run.raw.get("place") == "all":
        notice(styled(f"  each worker: taskman runs list --parent {run.id}", err=True, dim=True))
    if run.has_succeeded:
        return Exit.OK
    notice(styled(f"  look closer: taskman runs show {run.id}", err=True, dim=True))
    return Exit.RUN_UNSUCCESSFUL


def _cause(run: Run) -> str:
    result = run.result if isinstance(run.result, dict) else {}
    what = str(run.error or "").partition("\n")[0]
    if run.state == "failed" and result.get("signal"):
        what = f"signal {result['signal']}"
    elif run.state == "failed" and result.get("exit_code"):
        what = f"exit code {result['exit_code']}"
    reason = f" (reason {run.reason})" if run.reason else ""
    return (f": {what}" if what else "") + reason
