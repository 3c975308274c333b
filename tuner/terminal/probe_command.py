"""`tuner probe`: measure the paths and widths of a workload on this machine, show the table, keep the choice.

Needs no server. Workers use what is kept here when their own width is not given. Heavy modules are imported inside.
"""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.errors import Fault, InvalidInput
from tuner.study.hyperparameter import Scalar
from tuner.terminal.options import Workloads

if TYPE_CHECKING:
    from rich.table import Table

    from tuner.engine.probe import Cell, Choice


def probe(
    workload: Annotated[str, typer.Argument(metavar="WORKLOAD", help="Its name.", show_default=False)],
    param: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A parameter of the workload; may be repeated.")
    ] = None,
    micro_batch: Annotated[int, typer.Option(min=1, help="Examples per slot and tick: the study's micro_batch.")] = 8,
    device: Annotated[str, typer.Option(help="cpu or cuda:0, ...")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads (default: a worker's: half the cores, at most 8).")
    ] = None,
    most: Annotated[int, typer.Option("--most", min=1, help="No wider than this.")] = 64,
    workloads: Workloads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure how wide and by which path a workload trains fastest here, and keep that for workers.

    Examples:
      tuner probe digits-mlp
      tuner probe my-problem --workloads my_workloads.py --param hidden=64 --micro-batch 16
    """
    import torch

    from tuner.engine.probe import WIDTHS, Choice, key, store
    from tuner.engine.probe import probe as measured
    from tuner.terminal.console import console
    from tuner.worker import default_threads
    from tuner.worker.device import import_workloads
    from tuner.workloads import load

    params = dict(_parameter(text) for text in param or [])
    torch.set_num_threads(threads or default_threads())
    import_workloads(workloads or [])
    task = load(workload, params)
    widths = tuple(width for width in WIDTHS if width <= most)
    choice = Choice(tuple(measured(task, micro_batch, device=device, widths=widths)))
    path = store(key(workload, params, micro_batch, device), choice)
    if as_json:
        print(json.dumps(_as_json(choice, str(path)), indent=2))
        return
    out, best = console(), choice.best
    out.print(_table(choice))
    out.print(f"choice: {best.path}, width {best.width}; kept in {path}")


def _parameter(text: str) -> tuple[str, Scalar]:
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise InvalidInput([Fault("--param", f"is {text!r}; expected is NAME=VALUE, e.g. hidden=64")])
    try:
        read = json.loads(value)
    except ValueError:
        return name, value
    return name, read if isinstance(read, bool | int | float | str) else value


def _as_json(choice: "Choice", path: str) -> dict[str, object]:
    def entry(cell: "Cell") -> dict[str, object]:
        return {"path": cell.path, "width": cell.width, "tick_s": cell.tick_s, "trial_ticks_per_s": cell.rate}

    return {"cells": [entry(cell) for cell in choice.cells], "choice": entry(choice.best), "file": path}


def _table(choice: "Choice") -> "Table":
    from tuner.terminal.tables import plain_table

    names = ("width", "path", "tick ms", "trial-ticks/s", "")
    table = plain_table(*names, right=("width", "tick ms", "trial-ticks/s"))
    for cell in choice.cells:
        mark = "<- choice" if cell == choice.best else ""
        table.add_row(str(cell.width), cell.path, f"{1e3 * cell.tick_s:.3f}", f"{cell.rate:,.0f}", mark)
    return table
