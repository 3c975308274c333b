"""The commands that change studies and trials under way: pause, resume, edit, clone, enqueue, retry.

They have the names of the API's own. `tuner.cli` registers them and turns their errors into exit codes.
"""

from typing import Annotated

import typer

from tuner.errors import InvalidInput
from tuner.terminal.options import Json, Server, Study, TokenFile, connect

TEXT = ("title", "note", "name")
"""Keys of a document whose values are text."""
Assigned = Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", show_default=False)]
Number = Annotated[int, typer.Argument(metavar="TRIAL", min=0, help="A trial's number.", show_default=False)]


def pause(study: Study, server: Server = None, token_file: TokenFile = None, as_json: Json = False) -> None:
    """Pause a study: its trials store their states and leave the workers; `tuner resume` lets it go on.

    Example:
      tuner pause digits-optimizers
    """
    from tuner.terminal.console import messages, print_json

    with connect(server, token_file) as client:
        view = client.pause(study)
    if as_json:
        print_json(view)
    else:
        messages().print(f"study {view.name} is {view.state}; go on with: tuner resume {view.name}", markup=False)


def resume(study: Study, server: Server = None, token_file: TokenFile = None, as_json: Json = False) -> None:
    """Let a paused study go on where it was, or undo the stop of a stopped one.

    Example:
      tuner resume digits-optimizers
    """
    from tuner.terminal.console import messages, print_json

    with connect(server, token_file) as client:
        view = client.resume(study)
    if as_json:
        print_json(view)
    else:
        messages().print(f"study {view.name} is {view.state}", markup=False)


def edit(
    study: Study,
    changes: Assigned,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    r"""Change a study while it runs, or after: run_cap, parallel, priority, title, note, tags, and its budgets.

    Values are written as in a study document. A raised run_cap or budget lets a completed study go on.

    Examples:
      tuner edit digits-optimizers run_cap=128
      tuner edit digits-optimizers title="Which optimizer?" tags=\[digits,baseline]
      tuner edit digits-optimizers priority=2 budget.max_failed=20 parallel=null
      tuner edit digits-optimizers budget.wall_clock=3h budget.device_hours=8
    """
    from tuner.study.states import StudyState
    from tuner.terminal.assignments import assignments, nested
    from tuner.terminal.console import messages, print_json

    wish = nested(assignments(changes, text=TEXT))
    with connect(server, token_file) as client:
        view = client.edit(study, **wish)
    if as_json:
        print_json(view)
        return
    messages().print(f"study {view.name} is {view.state}: {', '.join(sorted(wish))} as asked", markup=False)
    if "run_cap" in wish and view.state in (StudyState.STOPPED, StudyState.PAUSED, StudyState.FAILED):
        messages().print(f"it has no more trials until it goes on: tuner resume {view.name}", markup=False)


def clone(
    study: Study,
    changes: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE...]", show_default=False)] = None,
    name: Annotated[str | None, typer.Option(help="Of the new study (default: the study's with -2, -3, ...).")] = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Start another study with the document of one, as it is or with changes (`null` removes a key).

    Examples:
      tuner clone digits-optimizers
      tuner clone digits-optimizers --name digits-longer budget.examples_per_trial=40000 seed=1
    """
    from tuner.terminal.assignments import assignments, nested
    from tuner.terminal.console import messages, print_json
    from tuner.terminal.formats import many

    wish = nested(assignments(changes or [], text=TEXT))
    with connect(server, token_file) as client:
        view = client.clone(study, name, wish)
    if as_json:
        print_json(view)
    else:
        messages().print(f"submitted {view.name}: {many(view.run_cap, 'trial')} of {view.workload}", markup=False)


def enqueue(
    study: Study,
    params: Assigned,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Have a configuration of your own trained, before proposals that wait. It counts in run_cap.

    What is left out takes the study's fixed value, or the documented default.

    Examples:
      tuner enqueue digits-optimizers optimizer=adamw lr=0.001 batch_size=64
      tuner enqueue digits-optimizers optimizer=sgd lr=0.1 schedule=cosine workload.hidden=64
    """
    from tuner.terminal.assignments import assignments
    from tuner.terminal.console import messages, print_json
    from tuner.terminal.formats import configuration

    wish = assignments(params)
    if odd := [key for key, value in wish.items() if not isinstance(value, bool | int | float | str)]:
        raise InvalidInput(f"{odd[0]}: a configuration has one value of each; to search more, change the study")
    with connect(server, token_file) as client:
        view = client.enqueue(study, wish)
    if as_json:
        print_json(view)
    else:
        told = f"trial {view.number} of {view.study} is {view.state}: {view.optimizer} {configuration(view.params)}"
        messages().print(told, markup=False)


def retry(
    study: Study, trial: Number, server: Server = None, token_file: TokenFile = None, as_json: Json = False
) -> None:
    """Try a failed, cancelled or infeasible trial again, from its last checkpoint if there is one.

    A completed or failed study goes on for it.

    Example:
      tuner retry digits-optimizers 17
    """
    from tuner.terminal.console import messages, print_json

    with connect(server, token_file) as client:
        view = client.retry(study, trial)
    if as_json:
        print_json(view)
    else:
        messages().print(f"trial {view.number} of {view.study} is {view.state}", markup=False)
