"""What a model's outputs are: which of their dims counts examples, and how much memory an example takes.

A model is tried on two and on three examples. A dim that grows in proportion counts examples; outputs of parts of the
data are joined along it. Invariant: what is found depends on the model and its data, never on the machine, so that
data is cut in the same way everywhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tuner.workloads.tree import leaves, map_leaves

FEW, MORE = 2, 3
"""Examples tried."""


@dataclass(frozen=True)
class Outputs:
    """What a trial run found."""

    dims: list[int | None]
    """Of each leaf of an output: the dim that counts examples, or None."""
    bytes_each: int
    """Of the outputs of one example."""
    largest_each: int
    """Of the largest tensor computed on the way, of one example."""

    def join(self, parts: Sequence[Any], sizes: Sequence[int]) -> Any:
        """Return one output from those of parts with so many examples each.

        Numbers that belong to a part as a whole, such as a loss, become their mean, weighted by examples; of anything
        else that does not count examples, the first part's is taken.
        """
        if len(parts) == 1:
            return parts[0]
        dims = iter(self.dims)

        def joined(*found: Any) -> Any:
            dim, first = next(dims), found[0]
            if dim is not None:
                return torch.cat(found, dim)
            if isinstance(first, Tensor) and first.dim() == 0 and first.is_floating_point():
                return weighted_mean(found, sizes)
            return first

        return map_leaves(joined, *parts)


def weighted_mean(values: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Return the mean of numbers, each with the weight of its part's examples; of one number, itself."""
    if len(values) == 1:
        return values[0]
    total = sum(value.double() * size for value, size in zip(values, sizes, strict=True))
    return (torch.as_tensor(total) / sum(sizes)).to(values[0].dtype)


def outputs_of(run: Callable[[int], Any]) -> Outputs:
    """Try `run(n)`, a model on its first n examples. Exceptions of the model propagate."""
    tried = []
    for count in (FEW, MORE):
        with _Largest() as largest:
            output = run(count)
        tried.append((leaves(output), largest.bytes))
    (few, few_bytes), (more, more_bytes) = tried
    dims = [_dim(one, other) for one, other in zip(few, more, strict=True)]
    each = sum(leaf.nbytes // MORE for leaf, dim in zip(more, dims, strict=True) if dim is not None)
    return Outputs(dims, each, max(each, more_bytes - few_bytes))


def _dim(few: Any, more: Any) -> int | None:
    if not isinstance(few, Tensor) or not isinstance(more, Tensor) or few.dim() != more.dim():
        return None
    grown = (
        dim for dim, (n, m) in enumerate(zip(few.shape, more.shape, strict=True)) if n != m and n * MORE == m * FEW
    )
    return next(grown, None)


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the bytes of the largest tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not to import torch's tracer, which takes a second, to tell it that there is nothing to trace."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See `TorchDispatchMode`."""
        result = func(*args, **(kwargs or {}))
        sizes = [item.nbytes for item in leaves(result) if isinstance(item, Tensor)]
        self.bytes = max(self.bytes, *sizes, 0)
        return result
