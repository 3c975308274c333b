"""All parameters of a trial as one row, the loss as a function of rows, and inner products of rows.

Line searches and quasi-Newton methods see a trial as one vector: rows [T, P], parameters joined in their own order.
Invariant: a trial's bits depend neither on T nor on its position. Inner products are taken in float64 and summed
pairwise, using only elementwise operations: in torch.sum and matrix products the order of the terms depends on the
batch size. A non-finite loss or gradient counts as an infinite loss: no step is ever taken to such a point.
"""

import torch
from torch import Tensor

from tuner.errors import Fault, InvalidInput
from tuner.optimizers.rule import Curvature, Evaluate
from tuner.optimizers.tensors import Tensors


class Objective:
    """The loss of every trial as a function of rows, and the joining and splitting of parameters."""

    def __init__(self, name: str, evaluate: Evaluate | None, params: Tensors, curved: bool = False) -> None:
        """`params` [T, ...] give names and shapes; `name` is the requesting rule, `curved` whether it needs curvature.

        Raises:
            InvalidInput: `evaluate` is missing, or lacks a required second derivative.
        """
        if evaluate is None:
            raise InvalidInput([Fault("evaluate", f"is None; {name} needs the loss at other parameters")])
        if curved and not isinstance(evaluate, Curvature):
            raise InvalidInput([Fault("evaluate", f"has no `hessian_vector`; {name} needs the second derivative")])
        self._evaluate = evaluate
        self._shapes = {key: param.shape for key, param in params.items()}

    @property
    def curvature(self) -> Curvature | None:
        """The same loss if its second derivative is available, or else None."""
        return self._evaluate if isinstance(self._evaluate, Curvature) else None

    def join(self, tensors: Tensors) -> Tensor:
        """Copy named tensors [T, ...] into rows [T, P]."""
        return torch.cat([tensors[key].reshape(shape[0], shape[1:].numel()) for key, shape in self._shapes.items()], 1)

    def split(self, rows: Tensor) -> Tensors:
        """Return named views [T, ...] of rows [T, P]."""
        parts = torch.split(rows, [shape[1:].numel() for shape in self._shapes.values()], 1)
        return {key: part.view(shape) for (key, shape), part in zip(self._shapes.items(), parts, strict=True)}

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses [T], float64 and infinite where not finite, and the gradients [T, P]."""
        losses, gradients = self._evaluate(self.split(rows))
        losses = losses.double()
        return torch.where(losses.isfinite(), losses, torch.inf), self.join(gradients)

    def hessian_vector(self, rows: Tensor, vectors: Tensor) -> Tensor:
        """Return each trial's Hessian at `rows` times its own vector, all [T, P]; needs `curvature`."""
        assert self.curvature is not None
        return self.join(self.curvature.hessian_vector(self.split(rows), self.split(vectors)))


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Return inner products over the last dim, float64; `x`, `y` broadcast, e.g. (64, 10, 900) and (64, 1, 900)."""
    return sum_by_halving(x.double() * y.double())


def sum_by_halving(terms: Tensor) -> Tensor:
    """Sum the last dim in an order that depends only on its length; `terms` are overwritten."""
    length = terms.shape[-1]
    while length > 1:
        half = (length + 1) // 2
        terms[..., : length - half].add_(terms[..., half:length])
        length = half
    return terms[..., 0].clone()


def matrix_vector(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Return [T, P] products of [T, P, P] with [T, P], each sum in float64 and rounded once.

    One trial at a time, so that the products before summing need the memory of only one matrix.
    """
    products = [dot(matrix, vector) for matrix, vector in zip(matrices, vectors, strict=True)]
    return torch.stack(products).to(vectors.dtype)


def column(values: Tensor, like: Tensor) -> Tensor:
    """Shape a vector [T] so that it broadcasts over rows `like` [T, P], in like's dtype; a mask [T] stays a mask."""
    return (values if values.dtype == torch.bool else values.to(like.dtype))[:, None]


def largest(rows: Tensor) -> Tensor:
    """Return the largest absolute value of each row [T, P], float64 [T]."""
    return rows.abs().amax(1).double()
