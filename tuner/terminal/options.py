"""Options and arguments shared by several commands, how they are read, and the client built from them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.errors import Fault, InvalidInput
from tuner.study.hyperparameter import Scalar

if TYPE_CHECKING:
    from tuner.client import Client

Server = Annotated[
    str | None, typer.Option(metavar="URL", help="The server's address (or TUNER_SERVER).", show_default=False)
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file", metavar="FILE", help="A file with the server's token (or TUNER_TOKEN).", show_default=False
    ),
]
"""A file, never the token itself: every user of a machine can read the options of every process."""
Json = Annotated[bool, typer.Option("--json", help="Print the API's JSON.")]
Study = Annotated[str, typer.Argument(metavar="STUDY", help="A study's name or id.", show_default=False)]
Host = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Address to listen on (default: 127.0.0.1).")]
Port = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one (default: 8700).")
]
Width = Annotated[int | None, typer.Option(min=1, max=4096, help="Trials trained in one stack (default: measured).")]
Workloads = Annotated[
    list[str] | None, typer.Option(metavar="FILE|MODULE", help="A file or module with your workloads; may be repeated.")
]
DataDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Directory of the database (default: ./var).")]

SAME = ("host", "port", "data_dir", "token_file", "width", "workloads")
OPTIONS = {"database_url": "--db", "local_workers": "--worker", **{n: f"--{n.replace('_', '-')}" for n in SAME}}
"""Settings that `tuner serve` has options for."""


def option_of(setting: str) -> str:
    """Name a setting in a message: its option, if it has one, and its variable."""
    variable = f"TUNER_{setting.upper()}"
    return f"{OPTIONS[setting]} ({variable})" if setting in OPTIONS else variable


def connect(server: str | None, token_file: Path | None) -> "Client":
    """Build the client of a command; use it in a `with` block."""
    from tuner.client import Client
    from tuner.token import token_in

    return Client(server, token_in(token_file) if token_file is not None else None)


def parameter(text: str) -> tuple[str, Scalar]:
    """Read a workload's parameter, `NAME=VALUE`; the value is JSON, or else text. Raises `InvalidInput`."""
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise InvalidInput([Fault("--param", f"is {text!r}; expected NAME=VALUE, e.g. hidden=64")])
    try:
        read = json.loads(value)
    except ValueError:
        return name, value
    return name, read if isinstance(read, bool | int | float | str) else value


def check_device(device: str) -> None:
    """Refuse a GPU that torch cannot use, and what is no device. Raises `InvalidInput`."""
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise InvalidInput([Fault("--device", f"is {device!r}; allowed are cpu, cuda:0, ...")]) from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise InvalidInput([Fault("--device", f"is {device}; there is no GPU that torch can use")])
