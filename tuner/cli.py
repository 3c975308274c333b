"""The `tuner` command: composition root, and the only module of tuner that may import `api`.

Invariants:
- Exit codes: 0 success, 1 the operation failed, 2 wrong usage or invalid input, 3 no server reachable, 130 Ctrl-C.
- An error that is not a bug is one clear line on standard error (a line per fault), never a traceback.
- `--json` prints the API's own JSON on standard output and nothing else.
- Heavy modules are imported inside the commands that need them, so that `tuner --help` answers at once.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from tuner.errors import Fault, InvalidInput, TunerError, Unreachable
from tuner.terminal import (
    access_commands,
    advice_command,
    check_command,
    db_commands,
    lifecycle_commands,
    probe_command,
    read_commands,
    study_commands,
    worker_commands,
)
from tuner.terminal.options import DataDir, Host, Port, Server, TokenFile, Width, Workloads, option_of

if TYPE_CHECKING:
    from api.settings import Settings

FAILED, USAGE, NO_SERVER = 1, 2, 3


class ErrorBoundary(TyperGroup):
    """Turns errors into lines on standard error and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of a pipe has closed it: typer ends the command silently
            raise
        except (TunerError, OSError) as error:
            raise typer.Exit(report(error)) from error


def report(error: TunerError | OSError) -> int:
    """Print an error and return its exit code."""
    from tuner.terminal.console import print_error

    if isinstance(error, OSError):
        what = error.strerror or str(error)
        print_error(f"{error.filename}: {what.lower()}" if error.filename else what)
        return FAILED
    print_error(str(error))
    if isinstance(error, InvalidInput):
        return USAGE
    return NO_SERVER if isinstance(error, Unreachable) else FAILED


app = typer.Typer(
    cls=ErrorBoundary,
    help="Work out how to train your network: optimizer, learning rate, schedule and batch size.",
    epilog="Try it: tuner demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> NoReturn:
    """Run the `tuner` command and end the process with its exit code."""
    from tuner.terminal.console import use_safe_streams

    use_safe_streams()
    app(prog_name="tuner")
    sys.exit(0)


def _version(wanted: bool) -> None:
    if wanted:
        from tuner import __version__

        typer.echo(f"tuner {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


SERVING = "Servers and workers"
STUDYING = "Studies"
SCRIPTS = "Your own script"


@app.command(rich_help_panel=SERVING)
def demo(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    width: Width = None,
    exits: Annotated[bool, typer.Option("--exit", help="Exit after the study instead of continuing to serve.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the demo's study document and exit.")] = False,
) -> None:
    """Run a real study on its own server, and show the results.

    Trains 64 small networks with five optimizers on this machine. Ctrl-C stops everything it started; nothing is lost.

    Examples:
      tuner demo
      tuner demo --exit
      tuner demo --show > study.yaml
    """
    from tuner.terminal.demo import demo_yaml, run_demo

    if show:
        typer.echo(demo_yaml(), nl=False)
        return
    _check_api_lies_beside()
    settings = _settings({"host": host, "port": port, "data_dir": data_dir, "width": width})
    token = settings.token.get_secret_value() if settings.token else None
    where = (settings.host, settings.port, settings.data_dir.absolute(), settings.width)
    raise typer.Exit(run_demo(*where, token=token, exits=exits))


@app.command(rich_help_panel=SERVING)
def serve(
    host: Host = None,
    port: Port = None,
    db: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A database, without its password (default: SQLite in the data directory)."),
    ] = None,
    data_dir: DataDir = None,
    token_file: TokenFile = None,
    worker: Annotated[
        bool | None, typer.Option("--worker/--no-worker", help="Start a worker on this machine (default: yes).")
    ] = None,
    width: Width = None,
    workloads: Workloads = None,
    parent: Annotated[int | None, typer.Option(hidden=True, help="Exit when this process has ended.")] = None,
) -> None:
    """Serve the API and the dashboard, with a worker on this machine.

    Every option is also an environment variable TUNER_... (TUNER_PORT, TUNER_DATA_DIR, ...).

    Examples:
      tuner serve
      tuner serve --port 9000 --data-dir ./var
      tuner serve --workloads my_workloads.py
      tuner serve --db postgresql+psycopg://tuner@db/tuner --no-worker

    A password is never an option, which every user of the machine can read: set TUNER_DATABASE_URL, or PGPASSWORD.
    """
    from tuner.terminal.serving import check_data_dir, check_database_option, check_workloads, end_with

    _check_api_lies_beside()
    check_database_option(db)
    given = {"host": host, "port": port, "database_url": db, "data_dir": data_dir, "token_file": token_file}
    settings = _settings({**given, "width": width, "local_workers": worker, "workloads": workloads})
    check_workloads(settings.workloads)
    check_data_dir(settings.data_dir)
    if parent is not None:
        end_with(parent)
    from api.serve import serve as run_server

    raise typer.Exit(run_server(settings, lambda url: typer.echo(f"serving at {url} (Ctrl-C to stop)", err=True)))


@app.command(rich_help_panel=SERVING)
def worker(
    server: Server = None,
    token_file: TokenFile = None,
    name: Annotated[str | None, typer.Option(help="A label shown to users (default: the machine's name).")] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="cpu, cuda:0, ...; may be repeated (default: all devices).")
    ] = None,
    width: Width = None,
    workloads: Workloads = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads per process (default: the cores, divided by the work).")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Processes per device (default on a CPU: one per core; on a GPU: 1)."),
    ] = None,
    checkpoints: Annotated[
        str | None,
        typer.Option(metavar="DIR|URL", envvar="TUNER_CHECKPOINTS", help="Checkpoint store: the same as the server's."),
    ] = None,
    own_disk: Annotated[
        bool,
        typer.Option("--own-disk", help="The store is this worker's own directory, which no other machine can read."),
    ] = False,
    checkpoint_every_s: Annotated[
        float | None,
        typer.Option(
            min=0.1, envvar="TUNER_CHECKPOINT_EVERY_S", help="Seconds between a trial's checkpoints (default: 10)."
        ),
    ] = None,
    hang_s: Annotated[
        float | None,
        typer.Option(
            min=1.0, envvar="TUNER_HANG_S", help="Seconds without a tick until training counts as hung (default: 300)."
        ),
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Run this once per trial of external studies; {name} stands for a value.",
            rich_help_panel=SCRIPTS,
        ),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(help="Take the trials of this study alone, and end with it.", rich_help_panel=SCRIPTS),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Scripts at a time per device (default: 1).", rich_help_panel=SCRIPTS),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="SECONDS", help="End a script that runs longer.", rich_help_panel=SCRIPTS),
    ] = None,
    parent: Annotated[int | None, typer.Option(hidden=True, help="Exit when this process has ended.")] = None,
) -> None:
    """Train trials for a server, on this machine's devices: with the engine, or by running your script.

    Examples:
      tuner worker --server http://head:8700
      tuner worker --device cuda:0 --width 64 --workloads my_workloads.py
      tuner worker --command 'python train.py --lr {lr} --batch-size {batch_size}'
    """
    from tuner.client import DEFAULT_SERVER
    from tuner.store import absolute_root
    from tuner.terminal.serving import check_script_options, check_workloads
    from tuner.token import token_in, token_of
    from tuner.worker.run import run

    url = server or os.environ.get("TUNER_SERVER") or DEFAULT_SERVER
    check_workloads(workloads or [])
    token = token_in(token_file) if token_file is not None else token_of()
    engines = {"--width": width, "--workloads": workloads, "--threads": threads, "--processes": processes}
    check_script_options(command, {"--study": study, "--slots": slots, "--timeout": timeout}, engines)
    if command is not None:
        from tuner.worker.scripts.run import run as run_scripts

        status = run_scripts(
            url,
            command,
            token,
            name,
            devices=device,
            slots=slots or 1,
            study=study,
            timeout_s=timeout,
            parent=parent,
        )
        raise typer.Exit(status)
    store = absolute_root(checkpoints) if checkpoints is not None else None
    status = run(
        url,
        token,
        name,
        device,
        width,
        workloads,
        parent,
        threads,
        checkpoints=store,
        checkpoint_every_s=checkpoint_every_s,
        hang_s=hang_s,
        processes=processes,
        own_disk=own_disk,
    )
    raise typer.Exit(status)


for _own in (
    worker_commands.drain,
    worker_commands.release,
    check_command.check,
    check_command.workloads,
    probe_command.probe,
):
    app.command(rich_help_panel=SERVING)(_own)


def _check_api_lies_beside() -> None:
    """Check that `api` is Tuner's own package, without running foreign code: the name is a common one."""
    import tuner

    found = find_spec("api")
    own = Path(tuner.__file__).parent.parent / "api" / "__init__.py"
    if found is None or found.origin is None or not own.exists() or not own.samefile(found.origin):
        seen = "is not installed" if found is None else f"is another package, {found.origin or 'without a file'}"
        raise TunerError(f"the package 'api' next to Tuner ({own.parent}) {seen}; install Tuner in its own environment")


def _settings(given: dict[str, Any]) -> "Settings":
    """Build the server's settings: options, then TUNER_... variables, then defaults. Raises `InvalidInput`."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from api.settings import Settings, check_environment

    check_environment()
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        faults = [
            Fault(option_of(str(e["loc"][0])) if e["loc"] else "", e["msg"].removeprefix("Value error, "))
            for e in error.errors()
        ]
        # `from None`: pydantic's own error shows the values, and one of them may be a secret.
        raise InvalidInput(faults) from None
    except SettingsError as error:
        raise InvalidInput(f'{error}; a list is written as JSON, e.g. \'["a", "b"]\'') from None
    return settings


def _upkeep(db: str | None, data_dir: Path | None) -> tuple[db_commands.Upkeep, Any]:
    from tuner.terminal.serving import check_database_option

    _check_api_lies_beside()
    check_database_option(db)
    settings = _settings({"database_url": db, "data_dir": data_dir})
    from api import upkeep

    return upkeep, settings


for _command in (
    study_commands.submit,
    study_commands.watch,
    read_commands.studies,
    read_commands.trials,
    read_commands.trial,
    read_commands.log,
    read_commands.best,
    read_commands.leaderboard,
    advice_command.advice,
    lifecycle_commands.pause,
    lifecycle_commands.resume,
    study_commands.stop,
    lifecycle_commands.edit,
    lifecycle_commands.clone,
    lifecycle_commands.enqueue,
    lifecycle_commands.retry,
    study_commands.delete,
    read_commands.catalogue,
    access_commands.history,
    read_commands.workers,
):
    app.command(rich_help_panel=STUDYING)(_command)
app.add_typer(access_commands.token, name="token", rich_help_panel=SERVING)
app.add_typer(db_commands.commands(_upkeep), name="db", rich_help_panel=SERVING)
