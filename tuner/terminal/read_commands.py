"""The commands that only read: studies, trials, best, leaderboard, catalogue, workers.

Each connects a client method to a table or a report, or with `--json` to the API's own JSON. `tuner.cli`
registers them and turns their errors into exit codes. Everything heavy is imported inside, so that `--help` stays fast.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.errors import Fault, InvalidInput, NotFound
from tuner.terminal.options import Json, Server, Study, TokenFile, Workloads, connect

if TYPE_CHECKING:
    from rich.console import RenderableType


TRIALS_SHOWN = 50


def studies(
    server: Server = None,
    token_file: TokenFile = None,
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

    with connect(server, token_file) as client:
        views = list(client.studies(state))
    if as_json:
        print_json(Page[StudyView](items=views))
    else:
        _show(studies_table(views))


def trials(
    study: Study,
    server: Server = None,
    token_file: TokenFile = None,
    state: Annotated[str | None, typer.Option(help="Only trials in this state, e.g. completed.")] = None,
    sort: Annotated[str | None, typer.Option(help="number, value, ...; prefix with - for descending order.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"Most trials to list (default: {TRIALS_SHOWN}; all in JSON).")
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

    with connect(server, token_file) as client:
        if as_json:
            print_json(Page[TrialView](items=list(client.trials(study, state, sort, limit))))
            return
        view = client.study(study)
        rows = list(client.trials(study, state, sort, limit or TRIALS_SHOWN))
    total = view.counts.get(TrialState(state), 0) if state in list(TrialState) else sum(view.counts.values())
    _show(trials_table(rows, view.swept, view.metric, max(total, len(rows))))


def trial(
    study: Study,
    number: Annotated[int, typer.Argument(metavar="N", min=0, help="The trial's number.", show_default=False)],
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Show one trial: its state, its configuration, and its traceback if it failed.

    Example:
      tuner trial digits-optimizers 17
    """
    from tuner.terminal.console import print_json, print_traceback
    from tuner.terminal.reports import trial_report

    with connect(server, token_file) as client:
        view = client.trial(study, number)
        if as_json:
            print_json(view)
            return
        about = client.study(study)
    _show(trial_report(view, about.metric, about.swept))
    if view.error:
        print_traceback(view.error)


def log(
    study: Study,
    number: Annotated[int, typer.Argument(metavar="N", min=0, help="The trial's number.", show_default=False)],
    attempt: Annotated[int | None, typer.Option(min=1, help="Of this attempt (default: the latest).")] = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Print the end of what a trial printed: of a script's trial all kinds of output, of others that of a failure.

    Examples:
      tuner log my-study 17
      tuner log my-study 17 --attempt 1
    """
    from tuner.terminal.console import messages, print_json, print_output

    with connect(server, token_file) as client:
        found = client.log(study, number, attempt)
    if as_json:
        print_json(found)
        return
    if not found.written:
        messages().print(f"nothing is kept of what trial {number} printed", markup=False)
        return
    left_out = found.written - len(found.text.encode())
    if left_out > 0:
        messages().print(f"(the last {len(found.text):,} characters; {left_out:,} bytes before are not kept)")
    print_output(found.text)


def best(
    study: Study,
    server: Server = None,
    token_file: TokenFile = None,
    only_torch: Annotated[
        bool, typer.Option("--torch", help="Plain torch.optim, or a refusal where torch has no such optimizer.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write a file of Python that trains the winner again."),
    ] = None,
    workloads: Workloads = None,
    as_json: Json = False,
) -> None:
    """Show the winner so far, its evidence, and a snippet to paste; or write a file that trains it again.

    Examples:
      tuner best digits-optimizers
      tuner best digits-optimizers --torch
      tuner best my-study -o train.py --workloads my_workloads.py
    """
    from tuner.handover import snippet
    from tuner.terminal.console import messages, print_json, print_snippet
    from tuner.terminal.reports import best_report
    from tuner.terminal.train_file_writing import EXTERNAL_TRIAL, write

    with connect(server, token_file) as client:
        result = client.best(study)
        view = client.study(study) if output is not None or not as_json else None
    trial = result.trial
    if only_torch and trial.total_steps is None:
        raise InvalidInput([Fault("--torch", EXTERNAL_TRIAL)])
    if only_torch and trial.total_steps is not None:
        code = snippet(trial.params, trial.total_steps, trial.program, only_torch=True)
        result = result.model_copy(update={"snippet": code})
    if output is not None and view is not None:
        write(output, trial, view.document, workloads or [], only_torch=only_torch)
        messages().print(f"wrote {output}: python {output} trains trial {trial.number} again", soft_wrap=True)
    if as_json:
        print_json(result)
    elif output is None and view is not None:
        _show(best_report(result, view.metric, view.swept))
        print_snippet(result.snippet)


def leaderboard(study: Study, server: Server = None, token_file: TokenFile = None, as_json: Json = False) -> None:
    """Rank the optimizers of a study by their best trial.

    Example:
      tuner leaderboard digits-optimizers
    """
    from tuner.terminal.console import print_json
    from tuner.terminal.tables import leaderboard_table

    with connect(server, token_file) as client:
        board = client.leaderboard(study)
        if as_json:
            print_json(board)
            return
        view = client.study(study)
    _show(leaderboard_table(board, view.swept))


def catalogue(
    name: Annotated[str | None, typer.Argument(help="An optimizer, schedule, method or workload.")] = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Show what a study document may name; with NAME, its formula, ranges and sources.

    Needs no server. With one (--server or TUNER_SERVER), it also lists the workloads that workers have registered.

    Examples:
      tuner catalogue
      tuner catalogue muon
    """
    from tuner.terminal.console import print_json
    from tuner.terminal.reports import catalogue_entries, catalogue_entry, catalogue_overview
    from tuner.wire.catalogue import catalogue_view

    if server or os.environ.get("TUNER_SERVER"):
        with connect(server, token_file) as client:
            whole = client.catalogue()
    else:
        whole = catalogue_view()
    found = catalogue_entries(whole, name) if name else []
    if name and not found:
        raise NotFound(f"the catalogue has no {name!r}; 'tuner catalogue' lists all names")
    if as_json:
        print_json(found[0] if found else whole)
    elif found:
        _show(*(catalogue_entry(thing) for thing in found))
    else:
        _show(catalogue_overview(whole))


def workers(server: Server = None, token_file: TokenFile = None, as_json: Json = False) -> None:
    """List the workers: busy, idle and lost.

    Example:
      tuner workers
    """
    from tuner.terminal.console import print_json
    from tuner.terminal.tables import workers_table
    from tuner.wire.views import Page, WorkerView

    with connect(server, token_file) as client:
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
