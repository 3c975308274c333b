"""From what a user gives as `train` or `valid` to a `Source`, or to a refusal that says the way out."""

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from tuner.errors import Fault, InvalidInput
from tuner.workloads.examples import Indexed, Parts, Source
from tuner.workloads.loaders import source_of_dataset, source_of_loader
from tuner.workloads.tree import Structure, named_leaves
from tuner.workloads.windows import Windows


def source_of(field: str, data: object) -> Source:
    """Return the source of a task's `train` or `valid`; raise `InvalidInput` for what is no data."""
    if isinstance(data, Windows):
        return data
    if isinstance(data, tuple | dict | list):
        return _of_parts(field, data)
    if isinstance(data, Tensor | np.ndarray):
        raise _refusal(field, "is not a tuple of tensors (inputs, *targets); allowed is (inputs,), without targets")
    if isinstance(data, DataLoader):
        found = source_of_loader(field, data)
    elif isinstance(data, IterableDataset) or (_is_part(data) and not isinstance(data, type)):
        found = source_of_dataset(field, data)
    else:
        kinds = "a tuple (inputs, *targets), a dict of inputs, a Dataset and a DataLoader"
        raise _refusal(field, f"is {type(data).__name__}; allowed are {kinds}")
    return found if isinstance(found, Source) else _of_parts(field, found)


def _of_parts(field: str, data: object) -> Source:
    if not isinstance(data, tuple | dict) or not data:
        raise _refusal(field, "is not a tuple of tensors (inputs, *targets)")
    structure, parts = Structure.of(data)
    if not parts or not all(map(_is_part, parts)):
        wrong = [f"{place} is {type(leaf).__name__}" for place, leaf in named_leaves(data) if not _is_part(leaf)]
        raise _refusal(field, f"is not a tuple of tensors (inputs, *targets): {', '.join(wrong[:3]) or 'it is empty'}")
    if any(isinstance(part, Tensor) and part.dim() == 0 for part in parts):
        raise _refusal(field, "contains a tensor without dimensions; the first one must count the examples")
    sizes = [len(part) for part in parts]
    if len(set(sizes)) > 1:
        raise _refusal(field, f"has tensors of {sizes} examples; allowed is one number for all")
    if not sizes[0]:
        raise _refusal(field, "is empty; allowed is at least one example")
    return Parts(structure, parts)


def _is_part(leaf: object) -> bool:
    return isinstance(leaf, Tensor | Indexed) and not isinstance(leaf, str | bytes)


def _refusal(field: str, message: str) -> InvalidInput:
    return InvalidInput([Fault(field, message)])
