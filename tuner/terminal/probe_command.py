"""`tuner probe`: measure a workload on this machine, show the table, keep the choice.

Needs no server. Workers use the stored choice unless told otherwise. Heavy modules are imported inside.
"""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.errors import Fault, InvalidInput
from tuner.study.micro_batch import Group, common_micro_batch, legal_micro_batches
from tuner.terminal.options import Workloads, check_device, parameter
from tuner.worker.channel import Json

if TYPE_CHECKING:
    from tuner.terminal.probe_tables import Measured

MOST_MICRO_BATCHES = 6
DEFAULT_MICRO_BATCH = 8


def probe(
    workload: Annotated[str, typer.Argument(metavar="WORKLOAD", help="The workload's name.", show_default=False)],
    param: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A parameter of the workload; may be repeated.")
    ] = None,
    micro_batch: Annotated[
        int | None, typer.Option(min=1, help="Examples per slot and tick: the study's micro_batch (default: 8).")
    ] = None,
    batch_sizes: Annotated[
        str | None, typer.Option(metavar="16,32,...", help="A study's batch sizes: compare its legal micro-batches.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda:0, ...")] = "cpu",
    processes: Annotated[int | None, typer.Option(min=1, help="Only this many processes.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Only this many CPU threads per process.")] = None,
    most: Annotated[int, typer.Option("--most", min=1, help="Largest width to try.")] = 64,
    workloads: Workloads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure which processes, width and path train a workload fastest on this machine; workers use the result.

    Examples:
      tuner probe digits-mlp
      tuner probe digits-cnn --batch-sizes 16,32,64
      tuner probe my-problem --workloads my_workloads.py --param hidden=64 --micro-batch 16
    """
    from tuner.probe.bench import CELL_S
    from tuner.terminal.probe_tables import show
    from tuner.worker.device.probing import how_batches_run

    params = dict(parameter(text) for text in param or [])
    sizes = _batch_sizes(batch_sizes) if batch_sizes is not None else []
    check_device(device)
    wanted: Json = {"workload": workload, "workload_params": params, "device": device, "workloads": workloads or []}
    whole, most_per_tick = how_batches_run(wanted | {"micro_batch": 1, "per_tick": 2, "cell_s": CELL_S})
    size, legal = _micro_batches(sizes, micro_batch, whole)
    wanted["per_tick"] = min(most_per_tick, Group(size, tuple(sizes)).per_tick)
    found = _measured(wanted, size, processes, threads, most)
    found.whole = whole
    found.compared = _compared(wanted, legal, found, sizes)
    if as_json:
        print(json.dumps(_as_json(found), indent=2))
    else:
        show(found)


def _micro_batches(sizes: list[int], asked: int | None, whole: bool) -> tuple[int, list[int]]:
    """Return the micro-batch to measure, and those that a study with these batch sizes may have: `whole` ones only."""
    if not sizes:
        return asked or DEFAULT_MICRO_BATCH, []
    legal = sizes if whole else legal_micro_batches(sizes)
    if asked is not None and asked not in legal:
        fault = f"is {asked}; allowed with these batch sizes: {', '.join(map(str, legal))}"
        raise InvalidInput([Fault("--micro-batch", fault)])
    return asked or (sizes[0] if whole else common_micro_batch(sizes)), legal


def _measured(wanted: Json, micro_batch: int, processes: int | None, threads: int | None, most: int) -> "Measured":
    """Measure all splits, paths and widths at one micro-batch, and keep the choice."""
    import torch

    from tuner.probe.bench import CELL_S, allocator_room, place_of, splits
    from tuner.probe.choice import WIDTHS, Cell, Choice, cores, key, store
    from tuner.probe.room import room
    from tuner.terminal.probe_tables import Measured, waiting
    from tuner.worker.device.probing import measured

    device = torch.device(wanted["device"])
    tried = splits(cores(), device)
    if threads is not None:
        tried = sorted({(1, threads), (max(1, cores() // threads), threads)})
    if processes is not None:
        tried = [(processes, threads or max(1, cores() // processes))]
    widths = [width for width in WIDTHS if width <= most]
    free = allocator_room(room(device), device)
    with waiting() as note:
        results = []
        for result in measured(wanted | {"micro_batch": micro_batch, "cell_s": CELL_S}, tried, widths, free):
            results.append(result)
            note(f"{result.processes} x {result.threads} threads, width {result.width}, {result.path}")
    choice = Choice(tuple(result for result in results if isinstance(result, Cell)))
    if not choice.cells:
        raise InvalidInput(f"no stack of {wanted['workload']} fits in the memory of {wanted['device']}")
    setup = wanted["workload"], wanted["workload_params"], micro_batch, place_of(device), wanted["per_tick"]
    path = store(key(*setup), choice)
    return Measured(results, choice, micro_batch, str(path))


def _compared(wanted: Json, legal: list[int], found: "Measured", sizes: list[int]) -> dict[int, float]:
    """Return examples per second for each of the last `legal` ones, with the chosen path, width and processes."""
    from tuner.probe.bench import CELL_S
    from tuner.worker.device.probing import Processes

    best, rates = found.choice.best, {}
    for size in legal[-MOST_MICRO_BATCHES:]:
        own = {"micro_batch": size, "per_tick": Group(size, tuple(sizes)).per_tick, "cell_s": CELL_S}
        with Processes(best.processes, best.threads, wanted | own) as team:
            timing = team.measure(best.path, best.width)
        if timing is not None:
            rates[size] = size * team.per_tick * best.slots / timing.tick_s
    return rates


def _batch_sizes(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise InvalidInput([Fault("--batch-sizes", f"is {text!r}; expected whole numbers, e.g. 16,32,64")])
    return sorted({int(part) for part in parts})


def _as_json(found: "Measured") -> dict[str, object]:
    cells = [asdict(cell) | {"trial_ticks_per_s": cell.rate} for cell in found.choice.cells]
    result: dict[str, object] = {"cells": cells, "choice": cells[found.choice.cells.index(found.choice.best)]}
    result |= {"left_out": [asdict(item) for item in found.left_out], "micro_batch": found.micro_batch}
    result |= {"whole_batches": found.whole}
    if found.compared:
        result["micro_batches"] = {str(size): rate for size, rate in found.compared.items()}
    if found.compared and not found.whole:
        result["best_micro_batch"] = found.best_micro_batch
    return result | {"file": found.file}
