"""`taskman tokens`: who else may talk to the server."""

from __future__ import annotations

import click

from ..client import Document
from ..errors import NotFound
from .group import NounGroup, examples
from .output import Cell, notice, print_json, short_time, styled, table
from .session import session
from .typed import seconds

__all__ = ["tokens"]

SCOPES = ("read", "run", "write", "admin", "worker")


@click.group(
    cls=NounGroup, epilog=examples("taskman tokens create --scope run --name ci --expires 90d", "taskman tokens list")
)
def tokens() -> None:
    """Create, list and revoke API tokens.

    Scopes: read looks; run also starts and cancels runs, so it can execute commands on the workers; write also
    changes tasks; admin may do everything; worker serves as a remote worker and does nothing else.
    """


@tokens.command(
    epilog=examples(
        "taskman tokens create --scope run --name ci --expires 90d",
        "taskman tokens create --scope worker > worker.token",
    )
)
@click.option("--scope", type=click.Choice(SCOPES), required=True, help="What it may do.")
@click.option("--name", metavar="N", help="What the history of runs calls it.")
@click.option("--expires", metavar="30d", help="How long it is valid; for ever, unless given.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, with the token.")
def create(scope: str, name: str | None, expires: str | None, as_json: bool) -> None:
    """Create a token, and print it: this once, for it is not stored."""
    expires_s = seconds(expires) if expires else None
    with session() as client:
        made = client.create_token(scope, name, expires_s)
    if as_json:
        print_json(made)
    else:
        click.echo(made["token"])
    until = short_time(made["expires_at"]) if made["expires_at"] else "it is revoked"
    notice(f"token {made['name']} ({made['scope']}) is valid until {until}: keep it, it cannot be shown again")
    notice(styled(f"  revoke it: taskman tokens revoke {made['id']}", err=True, dim=True))


@tokens.command("list", epilog=examples("taskman tokens list", "taskman tokens list --json"))
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def list_tokens(as_json: bool) -> None:
    """List the tokens, the newest first; their secrets are nowhere."""
    with session() as client:
        found = client.tokens()
    if as_json:
        print_json({"items": found})
    else:
        table(("ID", "NAME", "SCOPE", "CREATED", "BY", "LAST USED", "EXPIRES"), map(_row, found))


def _row(token: Document) -> tuple[Cell, ...]:
    return (
        token["id"],
        token["name"],
        token["scope"],
        short_time(token["created_at"]),
        token["by"],
        short_time(token["last_used_at"]),
        short_time(token["expires_at"]),
    )


@tokens.command(epilog=examples("taskman tokens revoke 3f9a0c1b2d4e5f60"))
@click.argument("token_id", metavar="ID")
def revoke(token_id: str) -> None:
    """Revoke a token, on every server at once."""
    with session() as client:
        try:
            client.revoke_token(token_id)
        except NotFound:
            raise NotFound(f"there is no token '{token_id}'\n  taskman tokens list") from None
    notice(f"token {token_id} is revoked, and its sessions have ended")
