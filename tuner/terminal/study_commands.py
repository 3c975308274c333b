"""The commands that ask a server: submit, watch, studies, trials, best, leaderboard, advice, stop, delete, ...

Each is a thin line from a client's method to a table or a report; `tuner.cli` registers them and turns their errors
into exit codes. Everything heavy is imported inside, so that `--help` stays fast.
"""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.errors import InvalidInput, NotFound, TunerError
from tuner.terminal.options import Json, Server, Study, Token, connect

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tuner.client import Client

TRIALS_SHOWN = 50


def submit(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A study in YAML or JSON; - is standard input.")],
    server: Server = None,
    token: Token = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the study until it ends.")] = False,
    as_json: Json = False,
) -> None:
    """Submit a study; it starts at once.

    Examples:
      tuner submit study.yaml
      tuner submit study.yaml --watch
      cat study.json | tuner submit -
    """
    from tuner.document import read_document
    from tuner.terminal.console import messages, print_json

    document = read_document(file)
    with connect(server, token) as client:
        try:
            study = client.submit(document.values)
        except InvalidInput as error:
            raise InvalidInput("\n".join(document.locate(fault) for fault in error.faults)) from error
        if as_json and not watch:
            print_json(study)
            return
        messages().print(f"submitted {study.name}: {study.run_cap} trials of {study.workload}", markup=False)
        if watch:
            _follow(client, study.name, as_json)
        else:
            messages().print(f"follow it: tuner watch {study.name}", markup=False)


def watch(study: Study, server: Server = None, token: Token = None, as_json: Json = False) -> None:
    """Follow a study until it ends; with --json one line per change.

    Exit code 0 when it completed, 1 when it was stopped or failed. Ctrl-C leaves the study running.

    Example:
      tuner watch digits-optimizers
    """
    with connect(server, token) as client:
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
    if view is not None and view.state != StudyState.COMPLETED:
        raise TunerError(f"study {view.name} {view.state}" + (f": {view.reason}" if view.reason else ""))


def studies(
    server: Server = None,
    token: Token = None,
    state: Annotated[str | None, typer.Option(help="Only studies in this state, e.g. running.")] = None,
    as_json: Json = False,
) -> None:
    """List the studies.

    Example:
      tuner studies --state running
    """
    from tuner.terminal.console import print_json
    from tuner.terminal.tables import studies_table
    from tuner.wire.views import Page, StudyView

    with connect(server, token) as client:
        views = list(client.studies(state))
    if as_json:
        print_json(Page[StudyView](items=views))
    else:
        _show(studies_table(views))


def trials(
    study: Study,
    server: Server = None,
    token: Token = None,
    state: Annotated[str | None, typer.Option(help="Only trials in this state, e.g. completed.")] = None,
    sort: Annotated[str | None, typer.Option(help="number, value, ...; - in front for descending.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"At most so many (default: {TRIALS_SHOWN}; all of them in JSON).")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the trials of a study with the hyperparameters that it searches.

    Example:
      tuner trials digits-optimizers --sort value --limit 10
    """
    from tuner.study.states import TrialState
    from tuner.terminal.console import print_json
    from tuner.terminal.tables import trials_table
    from tuner.wire.views import Page, TrialView

    with connect(server, token) as client:
        if as_json:
            print_json(Page[TrialView](items=list(client.trials(study, state, sort, limit))))
            return
        view = client.study(study)
        rows = list(client.trials(study, state, sort, limit or TRIALS_SHOWN))
    total = view.counts.get(TrialState(state), 0) if state in list(TrialState) else sum(view.counts.values())
    _show(trials_table(rows, view.swept, view.metric, max(total, len(rows))))


def best(study: Study, server: Server = None, token: Token = None, as_json: Json = False) -> None:
    """Show the winner so far, how sure that is, and a snippet to paste.

    Example:
      tuner best digits-optimizers
    """
    from tuner.terminal.console import print_json, print_snippet
    from tuner.terminal.reports import best_report

    with connect(server, token) as client:
        result = client.best(study)
        if as_json:
            print_json(result)
            return
        view = client.study(study)
    _show(best_report(result, view.metric, view.swept))
    print_snippet(result.snippet)


def leaderboard(study: Study, server: Server = None, token: Token = None, as_json: Json = False) -> None:
    """Rank the optimizers of a study by their best trial.

    Example:
      tuner leaderboard digits-optimizers
    """
    from tuner.terminal.console import print_json
    from tuner.terminal.tables import leaderboard_table

    with connect(server, token) as client:
        board = client.leaderboard(study)
        if as_json:
            print_json(board)
            return
        view = client.study(study)
    _show(leaderboard_table(board, view.swept))


def advice(study: Study, server: Server = None, token: Token = None, as_json: Json = False) -> None:
    """Recommend batch sizes, with intervals, grades, and the experiment that would narrow them.

    Example:
      tuner advice digits-optimizers
    """
    from tuner.terminal.console import print_json
    from tuner.terminal.reports import advice_report

    with connect(server, token) as client:
        items = client.batch_advice(study)
    if as_json:
        print_json(items)
    else:
        _show(advice_report(items))


def stop(
    study: Study,
    trial: Annotated[int | None, typer.Option(min=0, help="Stop only the trial with this number.")] = None,
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Stop a study, or one of its trials; what it found stays.

    Examples:
      tuner stop digits-optimizers
      tuner stop digits-optimizers --trial 17
    """
    from tuner.terminal.console import messages, print_json

    with connect(server, token) as client:
        result = client.stop(study) if trial is None else client.stop_trial(study, trial)
    if as_json:
        print_json(result)
    else:
        name = f"study {study}" if trial is None else f"trial {trial} of {study}"
        messages().print(f"{name} is {result.state}", markup=False)


def delete(
    study: Study,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    server: Server = None,
    token: Token = None,
) -> None:
    """Delete a study with its trials; there is no way back.

    Example:
      tuner delete digits-optimizers --yes
    """
    from tuner.terminal.console import messages

    with connect(server, token) as client:
        if not yes:
            view = client.study(study)
            if not sys.stdin.isatty():
                raise InvalidInput(f"deleting {view.name} needs --yes where nobody can be asked")
            typer.confirm(f"Delete {view.name} with {sum(view.counts.values())} trials?", abort=True, err=True)
        client.delete(study)
    messages().print(f"deleted {study}", markup=False)


def catalogue(
    name: Annotated[str | None, typer.Argument(help="An optimizer, schedule, method or workload.")] = None,
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Show what a study may name; with NAME its formula, ranges and sources.

    Examples:
      tuner catalogue
      tuner catalogue muon
    """
    from tuner.terminal.console import print_json
    from tuner.terminal.reports import catalogue_entries, catalogue_entry, catalogue_overview

    with connect(server, token) as client:
        whole = client.catalogue()
    found = catalogue_entries(whole, name) if name else []
    if name and not found:
        raise NotFound(f"the catalogue has no {name!r}; 'tuner catalogue' lists what there is")
    if as_json:
        print_json(found[0] if found else whole)
    elif found:
        _show(*(catalogue_entry(thing) for thing in found))
    else:
        _show(catalogue_overview(whole))


def workers(server: Server = None, token: Token = None, as_json: Json = False) -> None:
    """List the workers, busy, idle and lost.

    Example:
      tuner workers
    """
    from tuner.terminal.console import print_json
    from tuner.terminal.tables import workers_table
    from tuner.wire.views import Page, WorkerView

    with connect(server, token) as client:
        views = list(client.workers())
    if as_json:
        print_json(Page[WorkerView](items=views))
    else:
        _show(workers_table(views))


def _show(*parts: "RenderableType") -> None:
    from tuner.terminal.console import console

    out = console()
    for part in parts:
        out.print(part)
