"""The contract of a workload: a model, a loss, and the data.

Invariants: the model's initial weights depend only on the seed, so that a trial starts identically in any slot of any
worker; the data does not depend on the seed. Every module handed out is a private copy: a module of the user's, given
as it is or returned by a factory, is never written to.
"""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from tuner.errors import Fault, InvalidInput
from tuner.workloads.examples import Augmented, Data, Examples, Indexed, Numbers, Source
from tuner.workloads.kind import Kind, guessed_kind
from tuner.workloads.sources import source_of
from tuner.workloads.transform import Transform
from tuner.workloads.value import SlotValue

__all__ = ["PRECISIONS", "Augmented", "Data", "Examples", "Indexed", "Kind", "Task"]

log = logging.getLogger(__name__)

PRECISIONS = ("float32", "tf32", "bf16")


@dataclass(frozen=True)
class Task:
    """A training problem.

    `model`: an `nn.Module` subclass or any callable without arguments that returns a module, called for each trial
    under its seed. Parts that it returns again and again keep their weights: so does a pretrained model. A module
    itself is accepted too, and means the same: every trial starts from a copy of it. `fresh`: the weights of a module
    given in this way are drawn anew for each trial, by `reset_parameters()` of every submodule that has it.
    `loss`: `loss(output, *targets)` returns a scalar, the mean over the examples of the batch. None takes the model's
    own, `output.loss` or `output["loss"]`, as models in the style of Hugging Face have it.
    `train`, `valid`: (inputs, *targets). Inputs are a tensor, a tuple or list of tensors (`model(*inputs)`) or a dict
    (`model(**inputs)`); a target is a tensor or nested in the same way; a dict by itself is inputs without targets. All
    tensors have one number of examples along dim 0, e.g. ([1437, 64], [1437]). Any of them may be `Indexed` instead.
    Or a `torch.utils.data.Dataset`, whose examples are such tuples or dicts, any other object with a length that takes
    an example number, a `DataLoader` of one (see `loaders.py`), or `tuner.Windows` of a sequence. What is not tensors
    is read by one loader for all trials, in the same order and with the same results as from memory, and may change its
    examples (`Augmented`).
    `resident`: whether training tensors are copied to the device as a whole (if they fit); otherwise the loader reads
    them from host memory.
    `metrics`: name -> `fn(output, *targets)`, a scalar over all examples given; or an object with
    `update(output, *targets)` and `compute()`, as in torchmetrics, or a function without arguments that makes one. They
    are evaluated on the validation data and reported as `valid_<name>`, next to `valid_loss`.
    `weights`: one for each training example, [n]: then examples are drawn with chances in proportion to them, with
    replacement, by the trial's seed; None shows every example once per epoch.
    `transform`: `fn(inputs, targets, draws)` returns training examples [b, ...] changed at random, as (inputs,
    targets); it runs where the model does, on each trial's micro-batch. With an argument `partner`, it also gets
    (inputs, targets) of another training example for each. See `transform.py`.
    `evaluate_with_grad`: whether evaluation runs with gradients, for models that differentiate to compute their output.
    `precision` of the training passes: `float32`; `tf32`, which rounds the inputs of a GPU's matrix products to TF32;
    `bf16`, which runs them in bfloat16 (torch.autocast). Parameters, state and evaluation are float32 in any case.
    `digest` identifies the data if the workload's name and parameters do not determine it; it is part of the program.
    `kind` of problem, for batch-size advice: `classification`, `regression`, `language` or `other`; None means
    `guessed_kind` of the validation data.
    `roles`: patterns of parameter names (fnmatch, e.g. `{"blocks.*.experts": "matrix"}`) -> `matrix`, `convolution`,
    `embedding`, `head` or `vector`, for those whose layer does not say it; of several that match, the last counts.
    `values` are the handles of the parameters that are one number per trial (`tuner.Value`); the registry sets them.

    Raises `InvalidInput` if the data is malformed.
    """

    model: nn.Module | Callable[[], nn.Module]
    loss: Callable[..., Tensor] | None
    train: Any
    valid: Any
    metrics: Mapping[str, Any] | None = None
    digest: str | None = None
    precision: str = "float32"
    resident: bool = True
    fresh: bool = False
    kind: Kind | None = None
    roles: Mapping[str, str] | None = None
    evaluate_with_grad: bool = False
    values: tuple[SlotValue, ...] = ()
    weights: Any = None
    transform: Callable[..., tuple[Any, Any]] | None = None
    training: Source = field(init=False, repr=False, compare=False)
    """`train` as the engine reads it."""
    validation: Source = field(init=False, repr=False, compare=False)
    """`valid` as the engine reads it."""
    _change: Transform | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        faults: list[Fault] = []
        for name, given, place in (("train", self.train, "training"), ("valid", self.valid, "validation")):
            try:
                object.__setattr__(self, place, source_of(name, given))
            except InvalidInput as error:
                faults += error.faults
        if self.weights is not None and not faults:
            faults += self._take_weights()
        if self.transform is not None:
            try:
                object.__setattr__(self, "_change", Transform(self.transform))
            except InvalidInput as error:
                faults += error.faults
        if not callable(self.model):
            faults.append(Fault("model", f"is {type(self.model).__name__}; allowed is a module or a callable"))
        elif self.fresh and not isinstance(self.model, nn.Module):
            faults.append(Fault("fresh", "is true, but model is a callable; allowed is true where model is a module"))
        if self.loss is not None and not callable(self.loss):
            faults.append(Fault("loss", f"is {type(self.loss).__name__}; allowed is a callable, or None"))
        if self.precision not in PRECISIONS:
            faults.append(Fault("precision", f"is {self.precision!r}; allowed are {', '.join(PRECISIONS)}"))
        if self.kind not in (None, *get_args(Kind)):
            faults.append(Fault("kind", f"is {self.kind!r}; allowed are {', '.join(get_args(Kind))}"))
        if faults:
            raise InvalidInput(faults)
        if self.kind is None:
            object.__setattr__(self, "kind", guessed_kind(self.validation))

    def _take_weights(self) -> list[Fault]:
        """Keep the weights as an array of float64, and return what is wrong with them."""
        try:
            found = np.asarray(self.weights).astype(np.float64)
        except (TypeError, ValueError) as error:
            return [Fault("weights", f"are not numbers: {error}")]
        if found.shape != (self.examples,):
            return [
                Fault(
                    "weights",
                    f"have the shape {list(found.shape)}; allowed is one for each of {self.examples} examples",
                )
            ]
        if not np.isfinite(found).all() or found.min() < 0 or not 0 < found.sum() < np.inf:
            return [
                Fault("weights", f"are from {found.min()} to {found.max()}; allowed are finite ones >= 0, not all zero")
            ]
        object.__setattr__(self, "weights", found)
        return []

    @property
    def examples(self) -> int:
        """Number of training examples."""
        return len(self.training)

    @property
    def mixes(self) -> bool:
        """Whether the transform takes a partner for each example."""
        return self._change is not None and self._change.mixes

    def read(self, numbers: Numbers) -> Data:
        """Return training examples as dry runs take them, each tensor [n, ...] on the CPU: plain, as the feed's are.

        Where the transform takes partners these follow, the next example for each.
        """
        found = self.training.read(numbers)
        return (*found, *self.training.read((numbers + 1) % self.examples)) if self.mixes else found

    def batch_of(self, data: Data) -> tuple[Any, list[Any]]:
        """Return inputs and targets of training examples, flat tensors, as the model and the loss get them."""
        if self._change is not None:
            return self._change(self.training.structure, data)
        return self.training.structure.inputs(data), self.training.structure.targets(data)

    def loss_of(self, output: Any, targets: Sequence[Any]) -> Tensor:
        """Return the mean loss of a batch. Raises `InvalidInput` where the model should give it and does not."""
        if self.loss is not None:
            return self.loss(output, *targets)
        found = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if not isinstance(found, Tensor):
            message = f"is None, but the model's output, {type(output).__name__}, has no loss; allowed is a callable"
            raise InvalidInput([Fault("loss", message)])
        return found

    def with_values(self, handles: Sequence[SlotValue]) -> "Task":
        """Return the same task with these handles."""
        task = copy.copy(self)
        object.__setattr__(task, "values", tuple(handles))
        return task

    def build_model(self, seed: int, instead: Mapping[str, Tensor] | None = None) -> nn.Module:
        """Return a module of its own, on the CPU, whose weights depend only on `seed` (64 bits).

        `instead`: tensors of these names are not copied, and these stand in their places; but not if it is `fresh`,
        which writes to what it has.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed also formats a traceback for every absent GPU
            model = self.model if isinstance(self.model, nn.Module) else self.model()
            if not isinstance(model, nn.Module):
                raise InvalidInput([Fault("model", f"returned {type(model).__name__}; expected an nn.Module")])
            kept: dict[int, Tensor] = {}
            if instead and not self.fresh:
                named = [*model.named_parameters(), *model.named_buffers()]
                kept = {id(tensor): instead[name] for name, tensor in named if name in instead}
            # What a factory returns may be, or contain, a module that it returns again.
            model = copy.deepcopy(model, kept)
            if self.fresh:
                _draw_anew(model)
        return model


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
