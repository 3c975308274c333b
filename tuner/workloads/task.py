"""The contract of a workload: a model, a loss, and the data.

Invariants: the model's initial weights depend only on the seed, so that a trial starts identically in any slot of any
worker; the data does not depend on the seed. Every module handed out is a private copy: a module of the user's, given
as it is or returned by a factory, is never written to.
"""

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tuner.errors import Fault, InvalidInput

log = logging.getLogger(__name__)

Data = tuple[Tensor, ...]
"""Inputs first, then targets; all with the same number of examples along dim 0."""

PRECISIONS = ("float32", "tf32", "bf16")

Kind = Literal["classification", "regression", "language", "other"]


@runtime_checkable
class Indexed(Protocol):
    """Examples that need not be in memory, e.g. a `numpy.memmap`, or your own object that reads files."""

    def __len__(self) -> int:
        """Return the number of examples."""

    def __getitem__(self, index: NDArray[np.int64], /) -> Any:
        """Return the examples with these numbers [n], in this order, as an array or CPU tensor [n, ...].

        Called from an engine thread, and from the thread that builds a stack.
        """


@runtime_checkable
class Augmented(Indexed, Protocol):
    """Training examples that differ from epoch to epoch and from trial to trial, yet not from run to run."""

    def augmented(self, index: NDArray[np.int64], seeds: NDArray[np.uint64], /) -> Any:
        """Return the examples with these numbers [n], each changed at random as its own seed says, [n, ...].

        `seeds` [n] depend only on the trial's seed, the epoch and the example's place in it; they are the same for
        every part of the data. Dry runs and recomputed statistics use the plain examples.
        """


Examples = Tensor | Indexed
"""One part of the training data."""


@dataclass(frozen=True)
class Task:
    """A training problem.

    `model`: an `nn.Module` subclass or any callable without arguments that returns a module, called for each trial
    under its seed. Parts that it returns again and again keep their weights: so does a pretrained model. A module
    itself is accepted too, and means the same: every trial starts from a copy of it. `fresh`: the weights of a module
    given in this way are drawn anew for each trial, by `reset_parameters()` of every submodule that has it.
    `loss`: `loss(output, *targets)` returns a scalar, the mean over the examples of the batch.
    `train`, `valid`: tensors (inputs, *targets) with equal first dimensions, e.g. ([1437, 64], [1437]). Those of
    `train` may also be `Indexed`: then one loader reads the micro-batches of all trials ahead, in the same order and
    with the same results as from memory, and lets those that are `Augmented` change their examples.
    `resident`: whether training tensors are copied to the device as a whole (if they fit); otherwise the loader reads
    them from host memory.
    `metrics`: name -> `fn(output, *targets)`, a scalar over all examples given. They are evaluated on the validation
    data and reported as `valid_<name>`, next to `valid_loss`; the model's output must then be one tensor [N, ...].
    `precision` of the training passes: `float32`; `tf32`, which rounds the inputs of a GPU's matrix products to TF32;
    `bf16`, which runs them in bfloat16 (torch.autocast). Parameters, state and evaluation are float32 in any case.
    `digest` identifies the data if the workload's name and parameters do not determine it; it is part of the program.
    `kind` of problem, for batch-size advice: `classification`, `regression`, `language` or `other`; None means
    `guessed_kind` of the validation data.
    `roles`: patterns of parameter names (fnmatch, e.g. `{"blocks.*.experts": "matrix"}`) -> `matrix`, `convolution`,
    `embedding`, `head` or `vector`, for those whose layer does not say it; of several that match, the last counts.

    Raises `InvalidInput` if the data is malformed.
    """

    model: nn.Module | Callable[[], nn.Module]
    loss: Callable[..., Tensor]
    train: tuple[Examples, ...]
    valid: Data
    metrics: Mapping[str, Callable[..., Tensor | float]] | None = None
    digest: str | None = None
    precision: str = "float32"
    resident: bool = True
    fresh: bool = False
    kind: Kind | None = None
    roles: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        faults = _data_faults("train", self.train, (Tensor, Indexed)) + _data_faults("valid", self.valid, (Tensor,))
        if not callable(self.model):
            faults.append(Fault("model", f"is {type(self.model).__name__}; allowed is a module or a callable"))
        elif self.fresh and not isinstance(self.model, nn.Module):
            faults.append(Fault("fresh", "is true, but model is a callable; allowed is true where model is a module"))
        if not callable(self.loss):
            faults.append(Fault("loss", f"is {type(self.loss).__name__}; allowed is a callable"))
        if self.precision not in PRECISIONS:
            faults.append(Fault("precision", f"is {self.precision!r}; allowed are {', '.join(PRECISIONS)}"))
        if self.kind not in (None, *get_args(Kind)):
            faults.append(Fault("kind", f"is {self.kind!r}; allowed are {', '.join(get_args(Kind))}"))
        if faults:
            raise InvalidInput(faults)
        if self.kind is None:
            object.__setattr__(self, "kind", guessed_kind(self.valid))

    @property
    def examples(self) -> int:
        """Number of training examples."""
        return len(self.train[0])

    def build_model(self, seed: int) -> nn.Module:
        """Return a module of its own, on the CPU, whose weights depend only on `seed` (64 bits)."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed also formats a traceback for every absent GPU
            model = self.model if isinstance(self.model, nn.Module) else self.model()
            if not isinstance(model, nn.Module):
                raise InvalidInput([Fault("model", f"returned {type(model).__name__}; expected an nn.Module")])
            model = copy.deepcopy(model)  # what a factory returns may be, or contain, a module that it returns again
            if self.fresh:
                _draw_anew(model)
        return model


def guessed_kind(data: Data) -> Kind:
    """Tell the kind of problem from (inputs, *targets).

    Whole numbers as target are classes, and so are zeros and ones; whole numbers for a sequence of whole numbers are
    tokens. Other targets are values to fit, unless there is none, there are several, or the target is the input (an
    autoencoder).
    """
    if len(data) != 2:
        return "other"
    inputs, target = data
    if not target.is_floating_point() and not target.is_complex():
        tokens = target.dim() > 1 and inputs.shape == target.shape and not inputs.is_floating_point()
        return "language" if tokens else "classification"
    if target.shape == inputs.shape and target.dtype == inputs.dtype and torch.equal(target, inputs):
        return "other"
    return "classification" if bool(((target == 0) | (target == 1)).all()) else "regression"


def _data_faults(field: str, data: object, kinds: tuple[type, ...]) -> list[Fault]:
    if not isinstance(data, tuple) or not data or not all(_is_data(item, kinds) for item in data):
        return [Fault(field, "is not a tuple of tensors (inputs, *targets)")]
    if any(isinstance(item, Tensor) and item.dim() == 0 for item in data):
        return [Fault(field, "contains a tensor without dimensions; the first one must count the examples")]
    sizes = [len(item) for item in data]
    if len(set(sizes)) > 1:
        return [Fault(field, f"has tensors of {sizes} examples; allowed is one number for all")]
    return [] if sizes[0] else [Fault(field, "is empty; allowed is at least one example")]


def _is_data(item: object, kinds: tuple[type, ...]) -> bool:
    """Python sequences also have a length and take an index, but not an array of indexes."""
    return isinstance(item, kinds) and not isinstance(item, list | tuple | str | bytes | dict)


def _draw_anew(module: nn.Module) -> None:
    fixed = []
    for name, part in module.named_modules():
        reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
        if reset is not None:
            reset()
        elif next(part.parameters(recurse=False), None) is not None:
            fixed.append(name or type(part).__name__)
    if fixed:
        log.warning("weights without reset_parameters() start the same for every seed", extra={"modules": fixed})
