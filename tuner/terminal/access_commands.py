"""The commands about who may do what: token create, token list, token revoke; and history, which tells who did.

`tuner.cli` registers them and turns their errors into exit codes. Everything heavy is imported inside, so that `--help`
stays fast.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from tuner.terminal.options import Json, Server, Study, TokenFile, connect

token = typer.Typer(
    help="Create, list and revoke access tokens. Roles: viewer reads; submitter also runs studies; admin also manages "
    "workers and tokens; worker trains trials and reads nothing.",
    no_args_is_help=True,
)


@token.command()
def create(
    label: Annotated[str, typer.Argument(help="Whose token it is, or what for; shown beside actions.")],
    role: Annotated[str, typer.Option(help="viewer, submitter, admin or worker.")],
    expires_days: Annotated[
        float | None, typer.Option(min=0.001, help="Days until it expires (default: never).")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Write it to a file that only you can read, for --token-file."
        ),
    ] = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Create a token and print it, this once. The first admin's token makes the server ask everybody for one.

    Examples:
      tuner token create me --role admin -o admin.token
      tuner token create gpu-farm --role worker --expires-days 90 -o worker.token
    """
    from tuner.terminal.console import messages, print_json
    from tuner.token import new_token_file

    with connect(server, token_file) as client, ExitStack() as files:
        write = files.enter_context(new_token_file(out)) if out is not None else None
        closes = client.session().how == "open"
        made = client.create_token(role, label, expires_days)
        if write is not None:
            write(made.token)
    if as_json:
        print_json(made)
        return
    if out is None:
        typer.echo(made.token)
    until = f", until {made.expires_at:%Y-%m-%d %H:%M} UTC" if made.expires_at else ""
    where = f"in {out}" if out else "printed above, and shown nowhere else"
    messages().print(f"token {made.id}: {made.role} {made.label!r}{until}; {where}", markup=False)
    if closes:
        messages().print(
            "from now on this server asks everybody for a token (revoke this one to undo that)", markup=False
        )


@token.command("list")
def list_tokens(server: Server = None, token_file: TokenFile = None, as_json: Json = False) -> None:
    """List all tokens, without their secrets.

    Example:
      tuner token list --token-file admin.token
    """
    from tuner.terminal.access_tables import tokens_table
    from tuner.terminal.console import console, print_json
    from tuner.wire.access import TokenView
    from tuner.wire.views import Page

    with connect(server, token_file) as client:
        found = client.tokens()
    if as_json:
        print_json(Page[TokenView](items=found))
    else:
        console().print(tokens_table(found) if found else "no tokens")


@token.command()
def revoke(
    number: Annotated[int, typer.Argument(metavar="ID", min=0, help="The token's id, from `tuner token list`.")],
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Revoke a token; what it opened closes within a minute.

    Example:
      tuner token revoke 3 --token-file admin.token
    """
    from tuner.terminal.console import messages, print_json

    with connect(server, token_file) as client:
        view = client.revoke_token(number)
    if as_json:
        print_json(view)
    else:
        messages().print(f"token {view.id} ({view.role} {view.label!r}) is revoked", markup=False)


def history(
    study: Study,
    limit: Annotated[int, typer.Option(min=1, help="Most changes to list.")] = 50,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """List what happened to a study and its trials, the newest first, and who asked for it.

    Example:
      tuner history digits-optimizers --limit 20
    """
    from tuner.terminal.access_tables import history_table
    from tuner.terminal.console import console, print_json
    from tuner.wire.views import EventView, Page

    with connect(server, token_file) as client:
        found = list(client.history(study, limit))
    if as_json:
        print_json(Page[EventView](items=found))
    else:
        console().print(history_table(found) if found else "nothing has happened yet")
