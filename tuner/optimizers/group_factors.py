"""Parameter groups with factors as torch has them: one group per class of equal factors, with lr and weight decay."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from tuner.errors import Fault, InvalidInput
from tuner.optimizers.catalogue import rule_class
from tuner.optimizers.scalars import plain
from tuner.study.hyperparameter import Scalar
from tuner.study.parameter_groups import Partition, read_groups, refuse


def with_factors(
    name: str,
    params: Iterable[Any],
    groups: Sequence[Mapping[str, Any]],
    hp: Mapping[str, Scalar],
) -> list[dict[str, Any]]:
    """Divide named parameters into torch's parameter groups, in the order of the first parameter of each.

    Args:
        name: the optimizer's.
        params: (name, parameter), in the model's order.
        groups: see `build`.
        hp: the optimizer's `lr`, and `weight_decay` if it has one, which the factors multiply.

    Raises:
        InvalidInput: an illegal factor, a pattern that matches nothing, parameters without names, or an optimizer that
            moves all parameters as one.
    """
    paths = {f"groups[{i}]": group for i, group in enumerate(groups)}
    read = read_groups({path: {key: plain(value) for key, value in group.items()} for path, group in paths.items()})
    refuse(rule_class(name).info(), read)
    named: dict[str, Tensor] = {}
    for entry in params:
        if not isinstance(entry, tuple):
            told = f"have no names, {type(entry).__name__} given; groups need a module or (name, parameter) pairs"
            raise InvalidInput([Fault("params", told)])
        named[entry[0]] = entry[1]
    partition = Partition(read, list(named))
    found: list[dict[str, Any]] = [{"params": []} for _ in range(len(partition))]
    for key, param in named.items():
        found[partition.of[key]]["params"].append((key, param))
    for group, (lr_factor, weight_decay_factor) in zip(found, partition.factors(read), strict=True):
        group["lr"] = float(hp["lr"]) * lr_factor
        if "weight_decay" in hp:
            group["weight_decay"] = float(hp["weight_decay"]) * weight_decay_factor
    return found
