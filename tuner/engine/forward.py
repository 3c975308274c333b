"""Losses and gradients of all slots on their micro-batches.

Two paths give the same mathematics: `eager` runs all slots as one vmapped program; `loop` runs them one after another,
for models that vmap cannot take (buffers, frozen parameters, dropout, LSTM, control flow on values). A dry run decides;
its verdict is logged, never an error. The loop's stochastic layers draw from the trial's own stream.
"""

import logging
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from tuner.engine.architecture import Architecture, Tensors
from tuner.engine.seeds import STOCHASTIC_LAYERS, derive
from tuner.engine.slots import Ints
from tuner.workloads.task import Data

log = logging.getLogger(__name__)

Stream = Callable[[int], tuple[int, int]]


class Forward(ABC):
    """Computes gradients into a flat buffer. `extras` holds the slots' buffers and frozen parameters."""

    path: str

    def __init__(self, architecture: Architecture, params: Tensor, gradients: Tensor) -> None:
        self.architecture = architecture
        self.params = params
        self.gradients = gradients
        self.extras: dict[int, Tensors] = {}
        self.failures: dict[int, str] = {}
        """Slot -> traceback, of the last call."""

    @abstractmethod
    def run(self, data: Data, slots: Ints, stream: Stream) -> Tensor:
        """Return losses [width] and fill `gradients` [width, P].

        `data` is (inputs, *targets), each [width, b, ...]; `slots` are the occupied ones; `stream` gives a slot's
        (seed, examples seen), from which stochastic layers draw.
        """


class EagerForward(Forward):
    """All slots as one vmapped program, free ones included (their numbers are ignored)."""

    path = "eager"

    def __init__(self, architecture: Architecture, params: Tensor, gradients: Tensor) -> None:
        super().__init__(architecture, params, gradients)
        self._views = architecture.layout.views(params)
        self._into = architecture.layout.views(gradients)

        def loss(params: Tensors, inputs: Tensor, *targets: Tensor) -> Tensor:
            return architecture.loss(params, {}, inputs, *targets)

        self._program = vmap(grad_and_value(loss))

    def run(self, data: Data, slots: Ints, stream: Stream) -> Tensor:
        """See `Forward.run`. An error is raised: it cannot be told whose it is."""
        gradients, losses = self._program(self._views, *data)
        for name, view in self._into.items():
            view.copy_(gradients[name])
        result: Tensor = losses
        return result


class LoopForward(Forward):
    """One slot after another. An error of one is kept in `failures` and does not touch the others."""

    path = "loop"

    def run(self, data: Data, slots: Ints, stream: Stream) -> Tensor:
        """See `Forward.run`."""
        self.failures = {}
        losses = torch.zeros(len(self.params), dtype=self.params.dtype, device=self.params.device)
        with torch.random.fork_rng(devices=[self.params.device] if self.params.is_cuda else []):
            for slot in slots.tolist():
                seed, seen = stream(slot)
                _seed(derive(seed, STOCHASTIC_LAYERS, seen), self.params.is_cuda)
                try:
                    losses[slot] = self._one(slot, tuple(item[slot] for item in data))
                except Exception:  # the trial's boundary: the workload's own code runs here
                    self.failures[slot] = traceback.format_exc()
        return losses

    def _one(self, slot: int, data: Data) -> Tensor:
        layout = self.architecture.layout
        params = {n: v.detach().requires_grad_() for n, v in layout.slot_views(self.params[slot]).items()}
        loss = self.architecture.loss(params, self.extras.get(slot, {}), *data)
        gradients = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        for view, gradient in zip(layout.slot_views(self.gradients[slot]).values(), gradients, strict=True):
            view.zero_() if gradient is None else view.copy_(gradient)
        return loss.detach()


def _seed(seed: int, cuda: bool) -> None:
    """Seed the generators in use; `torch.manual_seed` costs ten times more, by what it notes for absent devices."""
    torch.default_generator.manual_seed(seed)
    if cuda:
        torch.cuda.manual_seed(seed)


def choose_path(architecture: Architecture, train: Data, micro_batch: int) -> str:
    """Try the model under vmap with two slots on their micro-batches of training data; say `eager` or `loop`.

    `eager` also has to agree with `loop`: a model may run under vmap and yet mix its slots.
    """
    reason = "it has buffers or frozen parameters" if architecture.has_extras else None
    if reason is None:
        index = torch.arange(2 * micro_batch, device=train[0].device) % len(train[0])
        reason = _fault_of_vmap(
            architecture, tuple(item[index].view(2, micro_batch, *item.shape[1:]) for item in train)
        )
    if reason is None:
        return "eager"
    log.warning("the model cannot be stacked and runs slot by slot", extra={"action": "path", "reason": reason})
    return "loop"


def _fault_of_vmap(architecture: Architecture, sample: Data) -> str | None:
    params = architecture.layout.allocate(2, architecture.device)
    for slot in (0, 1):
        architecture.layout.write(params[slot], dict(architecture.build(slot).named_parameters()))
    both = np.arange(2)
    eager = EagerForward(architecture, params, torch.zeros_like(params))
    loop = LoopForward(architecture, params, torch.zeros_like(params))
    try:
        stacked = eager.run(sample, both, _no_stream)
    except Exception as error:  # whatever vmap cannot take, it says in its own way
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    single = loop.run(sample, both, _no_stream)
    agree = not loop.failures and torch.allclose(stacked, single, rtol=1e-3, atol=1e-5, equal_nan=True)
    return None if agree else "its losses under vmap differ from those of a single model"


def _no_stream(slot: int) -> tuple[int, int]:
    return slot, 0
