"""`taskman logs`, also `taskman runs logs`: the log of a run, read or followed."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from ..client import LogLine
from .group import examples
from .output import print_jsonl, styled
from .session import known_run, session

__all__ = ["logs", "print_lines"]


@click.command(
    epilog=examples(
        "taskman logs r0-01jc4x9n2m8q5t7v3w6y0z1a2b4",
        "taskman logs -f r0-01jc4x9n2m8q5t7v3w6y0z1a2b4 2>errors.txt",
        "taskman logs --attempt 1 --json r0-01jc4x9n2m8q5t7v3w6y0z1a2b4",
    )
)
@click.argument("run_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run is final.")
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="An attempt other than the latest.")
@click.option("--json", "--jsonl", "as_json", is_flag=True, help="One JSON object a line.")
def logs(run_id: str, follow: bool, attempt: int | None, as_json: bool) -> None:
    """Print the log of a run.

    What the run wrote to stdout goes to stdout; its stderr, and what Taskman has to say, go to stderr.
    """
    with session() as client, known_run(run_id):
        lines = client.logs(run_id, attempt=attempt, follow=follow)
        if as_json:
            print_jsonl(line.raw for line in lines)
        else:
            print_lines(lines)


def print_lines(lines: Iterable[LogLine]) -> bool:
    """Print each line at once, to the stream that it belongs to; whether the last one had no newline."""
    is_partial = False
    for line in lines:
        stream = sys.stdout if line.stream == "out" else sys.stderr
        text = styled(line.text, err=True, dim=True) if line.stream == "sys" else line.text
        is_partial = line.is_partial
        stream.write(text if is_partial else text + "\n")
        stream.flush()
    return is_partial
