"""A user's closure as the loss of one trial at other parameters: `Evaluate`, and `Curvature` if needed.

Invariant: after any evaluation, the user's parameters and gradients have their previous values.
"""

from collections.abc import Callable, Iterator
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

    def first(self) -> float:
        """Call the closure at the current parameters and leave its gradients in them; return its result."""
        with torch.enable_grad():
            return self._closure()

    def __call__(self, params: Tensors) -> tuple[Tensor, Tensors]:
        """Return the loss [1] and gradients at other parameters [1, ...]."""
        with self._moved(params):
            with torch.enable_grad():
                loss = torch.as_tensor(self._closure()).detach().reshape(1)
            return loss.to(self._members[0]), self._named([member.grad for member in self._members])

    @contextmanager
    def _moved(self, params: Tensors) -> Iterator[None]:
        """Set the members to other values temporarily; afterwards restore their values and gradients."""
        own = [(m.detach().clone(), None if m.grad is None else m.grad.clone()) for m in self._members]
        for index, member in enumerate(self._members):
            member.detach().copy_(params[str(index)][0])
        yield
        for member, (value, grad) in zip(self._members, own, strict=True):
            member.detach().copy_(value)
            member.grad = grad

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
        members = self._members = [member for member in self._members if member.requires_grad]
        loss, gradients = self._differentiated(create_graph=False)
        for member, gradient in zip(members, gradients, strict=True):
            member.grad = gradient
        return loss  # type: ignore[return-value]  # a tensor, as in torch's own optimizers

    def __call__(self, params: Tensors) -> tuple[Tensor, Tensors]:
        """Return the loss [1] and gradients at other parameters [1, ...]."""
        self._graph = None  # changing the parameters makes it stale
        with self._moved(params):
            loss, gradients = self._differentiated(create_graph=False)
            return loss.reshape(1).to(self._members[0]), self._named(gradients)

    def hessian_vector(self, params: Tensors, vectors: Tensors) -> Tensors:
        """See `Curvature.hessian_vector`."""
        if all(torch.equal(params[str(index)][0], member) for index, member in enumerate(self._members)):
            if self._graph is None:
                self._graph = self._differentiated(create_graph=True)[1]
            return self._product(self._graph, vectors)
        self._graph = None
        with self._moved(params):
            return self._product(self._differentiated(create_graph=True)[1], vectors)

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
        found = torch.autograd.grad(outputs, self._members, weights, retain_graph=True, allow_unused=True)
        return self._named(list(found))

    def _differentiated(self, create_graph: bool) -> tuple[Tensor, list[Tensor | None]]:
        """Return the closure's loss, detached, and its gradients."""
        wanted = "the closure must return the loss and leave backward() to the optimizer, which differentiates it twice"
        with torch.enable_grad():
            loss = self._closure()
            if not isinstance(loss, Tensor) or not loss.requires_grad:
                raise InvalidInput([Fault("closure", f"returned {type(loss).__name__} without a graph; {wanted}")])
            try:
                found = torch.autograd.grad(loss, self._members, create_graph=create_graph, allow_unused=True)
            except RuntimeError as error:
                raise InvalidInput([Fault("closure", f"{wanted} ({str(error).partition('.')[0]})")]) from error
        return loss.detach(), list(found)
