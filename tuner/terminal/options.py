"""Options and arguments shared by several commands, and the client built from them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tuner.client import Client

Server = Annotated[
    str | None, typer.Option(metavar="URL", help="The server's address (or TUNER_SERVER).", show_default=False)
]
Token = Annotated[
    str | None, typer.Option(metavar="TOKEN", help="The server's token (or TUNER_TOKEN).", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print the API's JSON.")]
Study = Annotated[str, typer.Argument(metavar="STUDY", help="A study's name or id.", show_default=False)]
Host = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Address to listen on (default: 127.0.0.1).")]
Port = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one (default: 8700).")
]
Width = Annotated[int | None, typer.Option(min=1, max=4096, help="Trials trained together per device (default: 32).")]
Workloads = Annotated[
    list[str] | None, typer.Option(metavar="FILE|MODULE", help="A file or module with your workloads; may be repeated.")
]
DataDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Directory of the database (default: ./var).")]


def connect(server: str | None, token: str | None) -> "Client":
    """Build the client of a command; use it in a `with` block."""
    from tuner.client import Client

    return Client(server, token)
