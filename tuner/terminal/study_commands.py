"""The commands that start, follow and end studies: submit, watch, stop, delete.

`tuner.cli` registers them and turns their errors into exit codes. Everything heavy is imported inside, so that
`--help` stays fast.
"""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.errors import InvalidInput, TunerError
from tuner.terminal.options import Json, Server, Study, TokenFile, connect

if TYPE_CHECKING:
    from tuner.client import Client


def submit(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A study document in YAML or JSON; - reads standard input.")
    ],
    server: Server = None,
    token_file: TokenFile = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the study until it ends.")] = False,
    as_json: Json = False,
) -> None:
    """Submit a study; it starts immediately.

    Examples:
      tuner submit study.yaml
      tuner submit study.yaml --watch
      cat study.json | tuner submit -
    """
    from tuner.document import read_document
    from tuner.terminal.console import messages, print_json
    from tuner.terminal.formats import many

    document = read_document(file)
    with connect(server, token_file) as client:
        try:
            study = client.submit(document.values)
        except InvalidInput as error:
            raise InvalidInput("\n".join(document.locate(fault) for fault in error.faults)) from error
        if as_json and not watch:
            print_json(study)
            return
        messages().print(f"submitted {study.name}: {many(study.run_cap, 'trial')} of {study.workload}", markup=False)
        if watch:
            _follow(client, study.name, as_json)
        else:
            messages().print(f"follow it: tuner watch {study.name}", markup=False)


def watch(study: Study, server: Server = None, token_file: TokenFile = None, as_json: Json = False) -> None:
    """Follow a study until it ends; with --json, one line per change.

    Exit code 0 if it completed with a result, 1 if it was stopped, failed, or none of its trials completed. Ctrl-C
    leaves the study running.

    Example:
      tuner watch digits-optimizers
    """
    with connect(server, token_file) as client:
        _follow(client, study, as_json)


def _follow(client: "Client", study: str, as_json: bool) -> None:
    from tuner.study.states import StudyState
    from tuner.terminal.console import messages
    from tuner.terminal.progress import Progress

    if as_json:
        view = None
        for view in client.watch(study):
            sys.stdout.write(view.model_dump_json() + "\n")
            sys.stdout.flush()
    else:
        with Progress(messages(), f"{client.url}/studies/{study}") as progress:
            view = progress.follow(client.watch(study, away=progress.away))
    if view is None:
        return
    if view.state != StudyState.COMPLETED:
        raise TunerError(f"study {view.name} {view.state.value}" + (f": {view.reason}" if view.reason else ""))
    if view.best is None:
        raise TunerError(f"study {view.name} has no result: {view.notice or 'none of its trials completed'}")


def stop(
    study: Study,
    trial: Annotated[int | None, typer.Option(min=0, help="Stop only the trial with this number.")] = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Stop a study, or one of its trials; results are kept.

    Examples:
      tuner stop digits-optimizers
      tuner stop digits-optimizers --trial 17
    """
    from tuner.terminal.console import messages, print_json

    with connect(server, token_file) as client:
        result = client.stop(study) if trial is None else client.stop_trial(study, trial)
    if as_json:
        print_json(result)
    else:
        name = f"study {study}" if trial is None else f"trial {trial} of {study}"
        messages().print(f"{name} is {result.state}", markup=False)


def delete(
    study: Study,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Delete a study with its trials; this cannot be undone.

    Example:
      tuner delete digits-optimizers --yes
    """
    from tuner.terminal.console import messages
    from tuner.terminal.formats import many

    with connect(server, token_file) as client:
        if not yes:
            view = client.study(study)
            if not sys.stdin.isatty():
                raise InvalidInput(f"deleting {view.name} needs --yes without a terminal")
            typer.confirm(f"Delete {view.name} with {many(sum(view.counts.values()), 'trial')}?", abort=True, err=True)
        client.delete(study)
    messages().print(f"deleted {study}", markup=False)
