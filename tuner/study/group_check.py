"""Faults of a study's parameter groups: their names, their factors, and the optimizers that must honour them.

Whether a pattern matches anything only a worker can say, which knows the model.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tuner.errors import Fault
from tuner.study.catalogue import Catalogue
from tuner.study.parameter_groups import FACTORS, refusal
from tuner.study.space_check import domain_faults
from tuner.study.spec import GroupSpec, OptimizerChoice


def group_faults(fields: Mapping[str, Any], catalogue: Catalogue) -> Iterator[Fault]:
    """Yield the faults of what could be read of a document's `groups`; a faulty group is None in its place."""
    groups: Sequence[GroupSpec | None] = fields.get("groups", [])
    choices: Sequence[OptimizerChoice | None] = fields.get("optimizers", [])
    known = [choice.name for choice in choices if choice is not None and choice.name in catalogue.optimizers]
    first: dict[str, int] = {}
    for i, group in enumerate(groups):
        if group is None:
            continue
        if group.name in first:
            told = f"{group.name!r} is the name of groups[{first[group.name]}] too; give each a `name` of its own"
            yield Fault(f"groups[{i}].name", told)
        first.setdefault(group.name, i)
        for name, factor in group.factors.items():
            path = f"groups[{i}].{name}"
            if factor.when:
                yield Fault(f"{path}.when", "a factor takes no condition")
            yield from domain_faults(path, FACTORS[name], factor)
            for optimizer in dict.fromkeys(known):
                if why := refusal(catalogue.optimizers[optimizer], name):
                    yield Fault(path, f"{why}; leave out this optimizer or the factor")
