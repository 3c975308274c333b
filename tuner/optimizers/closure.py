"""A user's closure as the loss of one trial at other parameters: `Evaluate`, and `Curvature` if needed.

Invariants: whatever is evaluated, and however it ends, the parameters and gradients that the user sees are afterwards
those of the first call. The closure is called once for each place: where the parameters are, the first call's result
is taken again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from tuner.errors import Fault, InvalidInput
from tuner.optimizers.tensors import Tensors

Closure = Callable[[], float]


class ClosureLoss:
    """A closure that calls backward; `members` are the parameters, named by number ("0", "1", ...)."""

    def __init__(self, closure: Closure, members: list[Tensor]) -> None:
        self._closure = closure
        self._members = members
        self._loss: Tensor | None = None
        """Where the parameters are, [1]."""

    def first(self) -> float:
        """Call the closure at the current parameters and leave its gradients in them; return its result."""
        with torch.enable_grad():
            result = self._closure()
        if self._members:
            self._loss = self._number(result)
        return result

    def __call__(self, params: Tensors) -> tuple[Tensor, Tensors]:
        """Return the loss [1] and gradients at other parameters [1, ...]."""
        if self._loss is not None and self._are_here(params):
            return self._loss, self._named([member.grad for member in self._members])
        with self._moved(params):
            return self._evaluated()

    def _evaluated(self) -> tuple[Tensor, Tensors]:
        with torch.enable_grad():
            loss = self._closure()
        return self._number(loss), self._named([member.grad for member in self._members])

    @contextmanager
    def _moved(self, params: Tensors) -> Iterator[None]:
        """Let the members have other values; their own, and their gradients, come back afterwards."""
        own = [member.detach().clone() for member in self._members]
        with self._gradients_kept():
            try:
                for index, member in enumerate(self._members):
                    member.detach().copy_(params[str(index)][0])
                yield
            finally:
                for member, value in zip(self._members, own, strict=True):
                    member.detach().copy_(value)

    @contextmanager
    def _gradients_kept(self) -> Iterator[None]:
        """Bring the members' gradients back afterwards."""
        own = [None if member.grad is None else member.grad.clone() for member in self._members]
        try:
            yield
        finally:
            for member, grad in zip(self._members, own, strict=True):
                member.grad = grad

    def _are_here(self, params: Tensors) -> bool:
        return all(torch.equal(params[str(index)][0], member) for index, member in enumerate(self._members))

    def _number(self, loss: object) -> Tensor:
        return torch.as_tensor(loss, device=self._members[0].device).detach().double().reshape(1)

    def _named(self, gradients: list[Tensor | None]) -> Tensors:
        return {
            str(index): (torch.zeros_like(member) if gradient is None else gradient.detach().clone())[None]
            for index, (member, gradient) in enumerate(zip(self._members, gradients, strict=True))
        }


class CurvedClosureLoss(ClosureLoss):
    """A closure that returns a loss that can be differentiated twice, and leaves differentiation to the optimizer."""

    _graph: list[Tensor | None] | None = None
    """Differentiable gradients at the current parameters; kept, since many products are needed there."""

    def first(self) -> float:
        """See `ClosureLoss.first`."""
        loss, self._graph = self._differentiated(create_graph=True)
        self._loss = self._number(loss)
        for member, gradient in zip(self._members, self._graph, strict=True):
            if member.requires_grad:
                member.grad = None if gradient is None else gradient.detach().clone()
        return loss  # type: ignore[return-value]  # a tensor, as in torch's own optimizers

    def hessian_vector(self, params: Tensors, vectors: Tensors) -> Tensors:
        """See `Curvature.hessian_vector`."""
        if self._are_here(params):
            if self._graph is None:
                with self._gradients_kept():
                    self._graph = self._differentiated(create_graph=True)[1]
            return self._product(self._graph, vectors)
        with self._moved(params):
            return self._product(self._differentiated(create_graph=True)[1], vectors)

    def _evaluated(self) -> tuple[Tensor, Tensors]:
        loss, gradients = self._differentiated(create_graph=False)
        return self._number(loss), self._named(gradients)

    @contextmanager
    def _moved(self, params: Tensors) -> Iterator[None]:
        self._graph = None  # moving the parameters makes it stale
        with super()._moved(params):
            yield

    def _product(self, gradients: list[Tensor | None], vectors: Tensors) -> Tensors:
        """Differentiate gradients' inner product with `vectors` [1, ...]."""
        pairs = [
            (gradient, vectors[str(index)][0])
            for index, gradient in enumerate(gradients)
            if gradient is not None and gradient.requires_grad
        ]
        if not pairs:
            return self._named([None] * len(self._members))
        outputs, weights = zip(*pairs, strict=True)
        return self._named(self._with_respect_to_members(outputs, weights, retain_graph=True))

    def _differentiated(self, create_graph: bool) -> tuple[Tensor, list[Tensor | None]]:
        """Return the closure's loss, detached, and its gradients."""
        wanted = "the closure must return the loss and leave backward() to the optimizer, which differentiates it twice"
        with torch.enable_grad():
            loss = self._closure()
            if not isinstance(loss, Tensor) or not loss.requires_grad:
                raise InvalidInput([Fault("closure", f"returned {type(loss).__name__} without a graph; {wanted}")])
            try:
                found = self._with_respect_to_members((loss,), None, create_graph=create_graph)
            except RuntimeError as error:
                raise InvalidInput([Fault("closure", f"{wanted} ({str(error).partition('.')[0]})")]) from error
        return loss.detach(), found

    def _with_respect_to_members(
        self, outputs: Sequence[Tensor], weights: Sequence[Tensor] | None, **options: bool
    ) -> list[Tensor | None]:
        """Return the derivative of outputs by each member; None for those that are frozen or not used."""
        trained = [member for member in self._members if member.requires_grad]
        found = iter(torch.autograd.grad(outputs, trained, weights, allow_unused=True, **options))
        return [next(found) if member.requires_grad else None for member in self._members]
