"""The commands on workers: drain and release.

`tuner.cli` registers them and turns their errors into exit codes. Everything heavy is imported inside, so that `--help`
stays fast.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from tuner.errors import InvalidInput, NotFound
from tuner.terminal.options import Json, Server, TokenFile, connect

if TYPE_CHECKING:
    from tuner.client import Client
    from tuner.wire.views import WorkerView

Worker = Annotated[str, typer.Argument(metavar="WORKER", help="A worker's id or name, from `tuner workers`.")]


def drain(worker: Worker, server: Server = None, token_file: TokenFile = None, as_json: Json = False) -> None:
    """Tell a worker to leave: it stores its trials' states, hands them back and ends with status 0 within seconds.

    Its trials go on elsewhere. SIGTERM does the same on its own machine.

    Examples:
      tuner drain 7
      tuner drain gpu-node-3
    """
    with connect(server, token_file) as client:
        view = client.drain(_id(client, worker))
    _say(view, as_json, f"{view.name} (worker {view.id}) hands back {view.held} trials and leaves")


def release(worker: Worker, server: Server = None, token_file: TokenFile = None, as_json: Json = False) -> None:
    """Give a worker trials again that is quarantined because its process died under several trials in a row.

    Example:
      tuner release gpu-node-3
    """
    with connect(server, token_file) as client:
        view = client.release(_id(client, worker))
    _say(view, as_json, f"{view.name} (worker {view.id}) is {view.state}")


def _id(client: "Client", worker: str) -> int:
    """Find a worker that is there, by its id or its name."""
    if worker.isascii() and worker.isdecimal():
        return int(worker)
    found = [view.id for view in client.workers() if view.name == worker and view.state not in ("gone", "lost")]
    if not found:
        raise NotFound(f"no worker named {worker!r} is there")
    if len(found) > 1:
        raise InvalidInput(f"{len(found)} workers are named {worker!r}: give an id, {', '.join(map(str, found))}")
    return found[0]


def _say(view: "WorkerView", as_json: bool, text: str) -> None:
    from tuner.terminal.console import messages, print_json

    if as_json:
        print_json(view)
    else:
        messages().print(text, markup=False)
