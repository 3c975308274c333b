"""The demo: a real study on a server started for it, followed in the terminal, with its results.

It runs what a user would run by hand: `tuner serve`, `tuner submit`, `tuner watch`, `tuner best`, `tuner leaderboard`,
`tuner advice`. Invariants: everything that the demo started is stopped when it ends, however it ends; a server that it
did not start is left running.
"""

import contextlib
import itertools
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.text import Text

from tuner.client import Client
from tuner.connection import REFUSED
from tuner.errors import Conflict, NameTaken, NotFound, Unreachable
from tuner.study.micro_batch import grouped
from tuner.study.spec import StudySpec
from tuner.study.states import StudyState
from tuner.terminal.console import console, messages, print_snippet
from tuner.terminal.programs_report import programs_table
from tuner.terminal.progress import Progress
from tuner.terminal.reports import advice_report, best_report
from tuner.terminal.server_process import ServerProcess, serve_command
from tuner.terminal.tables import leaderboard_table
from tuner.wire.views import StudyView

DEMO_DOCUMENT: dict[str, Any] = {
    "name": "demo",
    "title": "Which optimizer for a small network on handwritten digits?",
    "workload": "digits-mlp",
    "metric": {"name": "valid_loss", "goal": "minimize"},
    "optimizers": ["sgd", "momentum", "nesterov", "adamw", "muon"],
    "parameters": {
        "batch_size": {"values": [8, 16, 32, 64, 128, 256]},
        "schedule": {"values": ["constant", "linear", "cosine", "wsd"]},
    },
    "method": "quasirandom",
    "run_cap": 64,
    "budget": {"examples_per_trial": 20_000},
    "seed": 0,
}
"""64 trials of a 64-32-10 perceptron on 1,797 images; `tuner demo --show` prints it as an editable file."""


def run_demo(host: str, port: int, data_dir: Path, width: int | None, *, token: str | None, exits: bool) -> int:
    """Run the demo and return the exit code; with `exits` it ends after the study instead of continuing to serve.

    Raises `Conflict` when the port belongs to another program.
    """
    out, notes = console(), messages()
    port = port or _free_port(host)
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    shown = f"[{reached}]" if ":" in reached else reached
    with _terminable(), Client(f"http://{shown}:{port}", token) as client:
        if _is_served(client):
            notes.print(Text(f"using the server already running at {client.url}"))
            study = _submit(client, goes_on=False)
            return _show(client, study, out, notes, None, exits)
        where = ("--host", host, "--port", str(port), "--data-dir", str(data_dir))
        command = serve_command(*where, *(["--width", str(width)] if width is not None else []))
        with ServerProcess(command, data_dir / "demo-server.log", lambda text: notes.print(Text(text))) as server:
            server.wait_until_ready(client)
            study = _submit(client, goes_on=True)
            return _show(client, study, out, notes, server, exits)


def demo_yaml() -> str:
    """Return the demo's study as the text of an editable file."""
    return "# Submit it with: tuner submit FILE\n" + yaml.safe_dump(DEMO_DOCUMENT, sort_keys=False, width=100)


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _is_served(client: Client) -> bool:
    """Return whether a Tuner server already responds there. Raises `Conflict` if another program does."""
    try:
        client.health()
    except Unreachable as error:
        if REFUSED in str(error):
            return False
        raise Conflict(f"{client.url} is in use by another program; choose a free port with --port") from error
    return True


def _submit(client: Client, goes_on: bool) -> StudyView:
    """Submit the demo's study under the next free name.

    With `goes_on`, an interrupted demo is continued instead: a server that just started is already running it.
    """
    views = list(client.studies())
    name = str(DEMO_DOCUMENT["name"])
    taken = {view.name for view in views}
    for number in itertools.count(1):
        free = name if number == 1 else f"{name}-{number}"
        interrupted = [v for v in views if v.name == free and v.state == StudyState.RUNNING]
        if goes_on and interrupted:
            return interrupted[0]
        if free not in taken:
            try:
                return client.submit({**DEMO_DOCUMENT, "name": free})
            except NameTaken:
                continue  # the name was taken meanwhile
    raise AssertionError("unreachable: the loop does not end")


def _show(
    client: Client, study: StudyView, out: Console, notes: Console, server: ServerProcess | None, exits: bool
) -> int:
    page = f"{client.url}/studies/{study.name}"
    notes.print(Text.assemble("dashboard  ", (page, "bold cyan")), soft_wrap=True)
    progress = Progress(notes, page)

    def away(reason: str | None) -> None:
        progress.away(reason)
        if server is not None:
            server.check()

    try:
        with progress:
            view = progress.follow(client.watch(study.id, away=away))
    except KeyboardInterrupt:
        going = "'tuner demo' resumes it" if server else f"the study keeps running: 'tuner watch {study.name}'"
        notes.print(Text(f"stopped; nothing is lost: {going}"))
        return 130
    ended = view is not None and view.state == StudyState.COMPLETED
    show_results(client, study.name, out)
    _show_programs(out)
    out.print(Text.assemble("\ndashboard  ", (page, "bold cyan")), soft_wrap=True)
    if server is not None and not exits:
        notes.print(Text("serving until Ctrl-C", "dim"))
        with contextlib.suppress(KeyboardInterrupt):
            while not threading.Event().wait(1.0):
                server.check()
    return 0 if ended else 1


def _show_programs(out: Console) -> None:
    """Print how fast this machine runs the demo's programs: why the workers took those that they took."""
    spec = StudySpec.model_validate(DEMO_DOCUMENT)
    table = programs_table(spec, grouped(DEMO_DOCUMENT["parameters"]["batch_size"]["values"]))
    if table is not None:
        out.print(Text("\nPrograms", "bold underline"))
        out.print(table)
        out.print(Text("trial-ticks per second of a process, in brackets the slots; trials enter the fastest", "dim"))


def show_results(client: Client, study: str, out: Console) -> None:
    """Print the results of a study: the winner, the leaderboard, the batch advice and the snippet to paste."""
    view = client.study(study)
    try:
        best = client.best(study)
    except NotFound as error:
        out.print(Text(str(error)))
        return
    out.print(best_report(best, view.metric, view.swept))
    for title, part in (
        ("Leaderboard", leaderboard_table(client.leaderboard(study), view.swept)),
        ("Batch size", advice_report(client.batch_advice(study), only_first=True)),
    ):
        out.print(Text(f"\n{title}", "bold underline"))
        out.print(part)
    out.print(Text("\nTo paste", "bold underline"))
    print_snippet(best.snippet)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Make SIGTERM and SIGHUP end the demo as Ctrl-C does, so that its server is stopped."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
