"""The contract of an update rule: the mathematics of one optimizer, on stacked tensors.

Every tensor of parameters, gradients and state has a leading axis of T trials; every hyperparameter is a float64 vector
[T] with one value per trial. A rule therefore never reduces over dim 0 and never reads a value back to the host: trials
are independent of each other.

Only single-rounding operations (add, mul, div, sqrt, matrix products) touch stacked elements in float32: fused ones
(addcmul, lerp, add with alpha) round differently in the vector body and the scalar tail of a kernel, so a trial's bits
would depend on its position in the batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from tuner.optimizers.state import State as State
from tuner.optimizers.tensors import FLOAT_TYPES as FLOAT_TYPES
from tuner.optimizers.tensors import Role as Role
from tuner.optimizers.tensors import Tensors as Tensors
from tuner.optimizers.tensors import per_trial as per_trial
from tuner.optimizers.torch_kernels import Kernel
from tuner.optimizers.treatment import CLIPPING, MOMENT_WARMUP, Treatment, decay_hyperparameters
from tuner.study.hyperparameter import Hyperparameter, OptimizerInfo, Scalar

Evaluate = Callable[[Tensors], tuple[Tensor, Tensors]]
"""Loss [T] and gradients at other parameters [T, ...], for rules that need the loss again.

It is the mean over the same examples as the step's gradient. Call it for all trials and mask those that are done.
"""


@runtime_checkable
class Curvature(Protocol):
    """An `Evaluate` that also provides the second derivative of the same loss."""

    def __call__(self, params: Tensors) -> tuple[Tensor, Tensors]:
        """See `Evaluate`."""

    def hessian_vector(self, params: Tensors, vectors: Tensors) -> Tensors:
        """Return the product of each trial's Hessian at `params` with its own `vectors`, all [T, ...]."""


Shapes = Mapping[str, torch.Size]
"""Parameter -> its shape, without the trial axis."""

Decay = Literal["l2", "decoupled"]
"""How a rule's own weight decay is applied: as part of the gradient, or as p ← p · (1 - lr · weight_decay) before
it."""


class Rule(ABC):
    """One optimizer. Instances hold no per-trial numbers: only roles, and values that fix the order of operations."""

    name: ClassVar[str]
    summary: ClassVar[str]
    formula: ClassVar[str]
    reference: ClassVar[str]
    hyperparameters: ClassVar[tuple[Hyperparameter, ...]]
    """Every rule has an `lr`."""
    memory: ClassVar[str] = ""
    """Description of the state if it is more than `buffers`, in copies of the parameter [m, k]."""
    decay: ClassVar[Decay | None] = None
    """How the rule's own `weight_decay` is applied; None: it has none, or one that is part of its formula."""
    elementwise: bool = True
    """True if every element is updated independently, so that all parameters may be passed as one flat tensor."""
    needs_loss: ClassVar[bool] = False
    """True if `update` calls `evaluate`: the engine then provides the step's loss at other parameters."""
    needs_curvature: ClassVar[bool] = False
    """True if it needs an `evaluate` that is a `Curvature`: the engine always provides one."""
    averages: ClassVar[bool] = False
    """True when other parameters than the trained ones are the result: see `evaluation_params`."""
    periodic: ClassVar[bool] = False
    """True if what it does depends on the number of updates, by `State.counts`, beyond whether it is the first."""
    lone: bool = False
    """Whether the trial will never have neighbours, so that its bits may depend on how its own tensors are grouped."""
    one_rate: ClassVar[bool] = False
    """True if it estimates one learning rate for all parameters, so that some cannot have a factor of their own."""
    starts_at_parameter: ClassVar[tuple[str, ...]] = ()
    """Buffers and pools that the first update sets to the parameter, for those that join a trial after it."""

    def __init__(
        self,
        roles: Mapping[str, Role],
        structure: Mapping[str, Scalar] | None = None,
        treatment: Treatment | None = None,
    ) -> None:
        """`structure` holds the values of hyperparameters that fix the program; those left out take their defaults."""
        self.roles = dict(roles)
        declared = {h.name: h.default for h in self.declared() if h.fixes_program}
        self.structure: dict[str, Scalar] = {**declared, **(structure or {})}
        self.treatment = treatment
        if treatment is not None and treatment.decay_roles != "all":
            self.elementwise = False  # one flat tensor would hide the roles

    @property
    def sees_matrices(self) -> bool:
        """Whether it is handed the matrices of a stack of them one by one (see `members.py`)."""
        return not (self.elementwise or self.needs_loss or self.averages)

    @classmethod
    def declared(cls) -> tuple[Hyperparameter, ...]:
        """Return every hyperparameter that may be set: the rule's own, and those of applicable treatments."""
        found = cls.hyperparameters
        if cls.decay is not None:
            found += decay_hyperparameters(cls.decay)
        if not cls.needs_loss:
            found += CLIPPING
            if any(cls.buffers(role) for role in get_args(Role)):
                found += (MOMENT_WARMUP,)
        return found

    @classmethod
    @abstractmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """Return the names of the state tensors of a parameter's own shape; the i-th is in the stack's i-th slab."""

    def own_buffers(self, role: Role) -> tuple[str, ...]:
        """Return those of `buffers`, in order, that the rule's choices need; all by default."""
        return self.buffers(role)

    def pools(self, shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
        """Return the state of other shapes per parameter: name -> parameter -> shape without the trial axis."""
        return {}

    def trial_state(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """Return the state of a whole trial: name -> shape without the trial axis, () for a number."""
        return {}

    def init(self, params: Tensors, trial_state: Mapping[str, tuple[int, ...]] | None = None) -> State:
        """Return the state before the first step: zeros. `trial_state` is that of a whole trial, if not the rule's."""
        first = next(iter(params.values()))
        trials, shapes = len(first), {name: param.shape[1:] for name, param in params.items()}
        state = State(torch.zeros(trials, dtype=torch.float64, device=first.device), (0,) * trials)
        for name, param in params.items():
            for buffer in self.own_buffers(self.roles.get(name, "vector")):
                state.buffers.setdefault(buffer, {})[name] = torch.zeros_like(param)
        for pool, wanted in self.pools(shapes).items():
            state.pools[pool] = {name: first.new_zeros(trials, *shape) for name, shape in wanted.items()}
        whole = self.trial_state(shapes) if trial_state is None else trial_state
        state.trial = {name: first.new_zeros(trials, *shape) for name, shape in whole.items()}
        return state

    def step(
        self,
        grads: Tensors,
        params: Tensors,
        state: State,
        hp: Mapping[str, Tensor],
        evaluate: Evaluate | None = None,
        norm: Tensor | None = None,
    ) -> None:
        """Apply the treatment, then `update`: what every user of a rule calls.

        Only rules that search see parameters without elements: they hand all parameters to the loss. `norm` [T] is that
        of each trial's whole gradient, for treatments, where `grads` are only a part of it.
        """
        if not self.needs_loss:
            params = {name: param for name, param in params.items() if param.numel()}
            grads = {name: grads[name] for name in params}
        if self.treatment is not None:
            grads, hp = self.treatment.prepare(grads, params, state.step, hp, self.roles, norm)
        self.update(grads, params, state, self.own(hp), evaluate)

    def own(self, hp: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the rule's own hyperparameters, without those of treatments."""
        return {h.name: hp[h.name] for h in self.hyperparameters if not h.fixes_program}

    @abstractmethod
    def update(
        self,
        grads: Tensors,
        params: Tensors,
        state: State,
        hp: Mapping[str, Tensor],
        evaluate: Evaluate | None = None,
    ) -> None:
        """Apply one step in place to `params` and `state` (`state.advance()` included). `grads` are not modified.

        `hp` holds the rule's own hyperparameters as float64 [T], except those that fix the program, which are plain
        values in `self.structure`; `hp["lr"]` already includes the schedule's factor.
        """

    def evaluation_params(self, params: Tensors, state: State, hp: Mapping[str, Tensor]) -> Tensors:
        """Return the parameters [T, ...] to evaluate and to keep: `params` themselves unless the rule averages."""
        return params

    @classmethod
    def info(cls) -> OptimizerInfo:
        """Return the catalogue entry."""
        copies = max(len(cls.buffers(role)) for role in get_args(Role))
        return OptimizerInfo(
            name=cls.name,
            summary=cls.summary,
            formula=cls.formula,
            reference=cls.reference,
            hyperparameters=cls.declared(),
            state_per_parameter=float(copies),
            elementwise=cls.elementwise,
            memory=cls.memory or str(copies),
            needs_loss=cls.needs_loss,
            needs_curvature=cls.needs_curvature,
            averages=cls.averages,
            parameter_groups=not (cls.needs_loss or cls.one_rate),
        )


class ElementwiseRule(Rule):
    """A rule that updates every element independently, in two parts: numbers per trial, and the elements themselves.

    The first part depends on the trial's step and hyperparameters only, so an engine may compute it for many steps at
    once; the second is one pass over memory, which an engine may compile. Together they are the update.
    """

    def scalars(self, step: Tensor, hp: Mapping[str, Tensor]) -> Tensors:
        """Return the coefficients, float64 [T], of update number `step` [T] (1 for the first): `hp` itself here."""
        return dict(hp)

    def scalar_names(self) -> list[str]:
        """Return the names of the scalars, in their order."""
        one = torch.ones(1, dtype=torch.float64)
        numbers = [h for h in self.hyperparameters if not h.fixes_program]
        return list(self.scalars(one, {h.name: torch.full_like(one, float(h.default)) for h in numbers}))

    def kernel(self) -> Kernel | None:
        """Return torch's own kernel for the whole update, without treatment, of one trial; None where torch has none.

        Its buffers are those of `buffers("vector")`.
        """
        return None

    @abstractmethod
    def step_elements(self, grad: Tensor, param: Tensor, buffers: Tensors, scalars: Tensors) -> None:
        """Update one tensor `param` [T, ...] and its own `buffers` (name -> [T, ...]) in place; `grad` is not modified.

        `scalars` are the result of `scalars()`, in float64 or already rounded to the parameters' type.
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
        state.advance()
        scalars = self.scalars(state.step, hp)
        for name, param in params.items():
            buffers = {buffer: tensors[name] for buffer, tensors in state.buffers.items()}
            self.step_elements(grads[name], param, buffers, scalars)
