"""From what a user gives as `train` or `valid` to a `Source`, or to a refusal that says the way out."""

from torch import Tensor

from tuner.errors import Fault, InvalidInput
from tuner.workloads.examples import Indexed, Parts, Source
from tuner.workloads.tree import Structure, named_leaves


def source_of(field: str, data: object) -> Source:
    """Return the source of a task's `train` or `valid`; raise `InvalidInput` for what is no data."""
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
