"""What this machine's workers have learned of a study's programs, as a table: which they take, and why.

It reads the file that they keep (`probe/choice.py`); where they run on another machine, or on a GPU, there is nothing
to show.
"""

from collections.abc import Sequence
from functools import partial

from rich.table import Table
from rich.text import Text

from tuner.probe.choice import Cell, cpu, key, stored
from tuner.study.micro_batch import Group
from tuner.study.spec import StudySpec
from tuner.terminal.tables import plain_table

PATHS = ("loop", "eager", "compiled")


def programs_table(spec: StudySpec, groups: Sequence[Group]) -> Table | None:
    """Return trial-ticks per second of each path at its best width, by group of batch sizes; None where none is known.

    The fastest is what later trials of the group enter.
    """
    table = plain_table("batch sizes", "b", *PATHS, right=("b", *PATHS))
    for group in groups:
        name = partial(key, spec.workload.name, spec.workload.params, group.micro_batch, cpu())
        found = stored(name(group.per_tick)) or stored(name())
        if found is not None:
            fastest = [_fastest(found.cells, path) for path in PATHS]
            rates = [0.0 if cell is None else cell.width / cell.tick_s for cell in fastest]
            shown = [_shown(cell, rate == max(rates)) for cell, rate in zip(fastest, rates, strict=True)]
            table.add_row(_sizes(group), str(group.micro_batch), *shown)
    return table if table.row_count else None


def _fastest(cells: Sequence[Cell], path: str) -> Cell | None:
    return max((cell for cell in cells if cell.path == path), key=lambda cell: cell.width / cell.tick_s, default=None)


def _shown(cell: Cell | None, best: bool) -> Text:
    if cell is None:
        return Text("-", "dim")
    return Text(f"{cell.width / cell.tick_s:,.0f} ({cell.width})", "bold" if best else "")


def _sizes(group: Group) -> str:
    return ", ".join(map(str, group.batch_sizes))
