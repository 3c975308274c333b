"""The contract of an update rule: the mathematics of one optimizer, on stacked tensors.

Every tensor of parameters, gradients and state has a leading axis of T trials; every hyperparameter is a float64 vector
[T] with one value per trial. A rule therefore never reduces over dim 0 and never reads a value back to the host: no
trial can see another.

Only single-rounding operations (add, mul, div, sqrt, matrix products) touch stacked elements in float32: fused ones
(addcmul, lerp, add with alpha) round differently in the vector body and the scalar tail of a kernel, so a trial's bits
would depend on where in the batch it stands.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tuner.study.hyperparameter import Hyperparameter, OptimizerInfo

Role = Literal["matrix", "convolution", "embedding", "head", "vector"]
FLOAT_TYPES = (torch.float32, torch.float64)
"""Types of parameters: in bfloat16 a beta of 0.999 would round to 1."""

Tensors = dict[str, Tensor]
"""Named tensors, each [T, ...]."""

Evaluate = Callable[[Tensors], tuple[Tensor, Tensors]]
"""Loss [T] and gradients at other parameters [T, ...], for rules that need the loss again.

It is the mean over the very examples whose gradient the step has. Call it for all trials and mask those that are done.
"""


@dataclass
class State:
    """What a rule remembers: `step` [T] (float64, updates done) and named buffers, name -> parameter -> [T, ...]."""

    step: Tensor
    buffers: dict[str, Tensors] = field(default_factory=dict)


class Rule(ABC):
    """One optimizer. Instances hold no numbers of a trial: only which role each parameter plays."""

    name: ClassVar[str]
    summary: ClassVar[str]
    formula: ClassVar[str]
    reference: ClassVar[str]
    hyperparameters: ClassVar[tuple[Hyperparameter, ...]]
    elementwise: ClassVar[bool] = True
    """True when every element is updated alone, so that all parameters may be handed over as one flat tensor."""
    needs_loss: ClassVar[bool] = False
    """True when `update` calls `evaluate`: the engine then offers the step's own loss at other parameters."""

    def __init__(self, roles: Mapping[str, Role]) -> None:
        self.roles = dict(roles)

    @classmethod
    @abstractmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """Name the state tensors of a parameter's own shape; the i-th lives in the stack's i-th state slab."""

    def init(self, params: Tensors) -> State:
        """Return the state before the first step: zeros."""
        first = next(iter(params.values()))
        state = State(step=torch.zeros(first.shape[0], dtype=torch.float64, device=first.device))
        for name, param in params.items():
            for buffer in self.buffers(self.roles.get(name, "vector")):
                state.buffers.setdefault(buffer, {})[name] = torch.zeros_like(param)
        return state

    @abstractmethod
    def update(
        self,
        grads: Tensors,
        params: Tensors,
        state: State,
        hp: Mapping[str, Tensor],
        evaluate: Evaluate | None = None,
    ) -> None:
        """Apply one step in place to `params` and `state` (its `step` included). `grads` are left as they are.

        `hp` holds every declared hyperparameter as float64 [T]; `hp["lr"]` already carries the schedule's factor.
        """

    @classmethod
    def info(cls) -> OptimizerInfo:
        """Return the catalogue entry."""
        roles: tuple[Role, ...] = ("matrix", "convolution", "embedding", "head", "vector")
        return OptimizerInfo(
            name=cls.name,
            summary=cls.summary,
            formula=cls.formula,
            reference=cls.reference,
            hyperparameters=cls.hyperparameters,
            state_per_parameter=float(max(len(cls.buffers(role)) for role in roles)),
            elementwise=cls.elementwise,
        )


class ElementwiseRule(Rule):
    """A rule that updates every element alone, in two parts: numbers per trial, and the elements themselves.

    The first part depends on the trial's step and hyperparameters only, so an engine may work it out for many steps at
    once; the second is one pass over memory, which an engine may compile. Together they are the update.
    """

    elementwise: ClassVar[bool] = True

    def scalars(self, step: Tensor, hp: Mapping[str, Tensor]) -> Tensors:
        """Return the coefficients, float64 [T], of update number `step` [T] (1 for the first): `hp` itself here."""
        return dict(hp)

    @abstractmethod
    def step_elements(self, grad: Tensor, param: Tensor, buffers: Tensors, scalars: Tensors) -> None:
        """Update one tensor `param` [T, ...] and its own `buffers` (name -> [T, ...]) in place; `grad` stays.

        `scalars` are those of `scalars()`, in float64 or already rounded to the parameters' type.
        """

    def update(
        self,
        grads: Tensors,
        params: Tensors,
        state: State,
        hp: Mapping[str, Tensor],
        evaluate: Evaluate | None = None,
    ) -> None:
        """Apply one step in place; `grads` and `params` hold [T, ...] tensors, e.g. (64, 256, 64)."""
        state.step.add_(1)
        scalars = self.scalars(state.step, hp)
        for name, param in params.items():
            buffers = {buffer: tensors[name] for buffer, tensors in state.buffers.items()}
            self.step_elements(grads[name], param, buffers, scalars)


def per_trial(value: Tensor, like: Tensor) -> Tensor:
    """Shape a per-trial vector [T] so that it broadcasts over `like` [T, ...], in like's dtype.

    Do scalar arithmetic (bias corrections, 1 - beta) on the float64 vector first and convert last: 1 - float32(0.999)
    is off by 1.3e-5 relative.
    """
    return value.to(like.dtype).reshape(-1, *(1,) * (like.dim() - 1))
