"""Groups of commands that help along: with examples, the nearest match, and the exact next command."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable

import click

from ..errors import nearest

__all__ = ["NounGroup", "examples", "retyped"]


class NounGroup(click.Group):
    """A group whose errors name the command that was probably meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"there is no command '{args[0]}'{retyped(args[0], known)}", ctx)
        return super().resolve_command(ctx, args)


def retyped(word: str, known: Iterable[str]) -> str:
    """The nearest of the known words, and the command line again with it in place of `word`; else nothing."""
    hint = nearest(word, known)
    if not hint:
        return ""
    better = hint.split("'")[1]
    line = [better if typed == word else typed for typed in sys.argv[1:]]
    return f"{hint}\n  taskman {shlex.join(line)}"


def examples(*lines: str) -> str:
    """The examples at the end of a command's help, one a line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
