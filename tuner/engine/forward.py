"""Losses and gradients of all slots on their micro-batches.

Two paths give the same mathematics: `eager` runs all slots as one vmapped program; `loop` runs them one after another,
for models that vmap cannot take (LSTM, F.dropout, control flow on values). A dry run decides; its verdict is logged,
never an error. Dropout layers draw by counters (`dropout.py`); whatever else draws on the loop path does so from the
trial's own stream.
"""

import logging
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import multi_head_attention_forward, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from tuner.engine.architecture import Architecture, Tensors
from tuner.engine.dropout import Draws, Stream, draws_of, stacked_draws
from tuner.engine.extras import Extras
from tuner.engine.out_of_memory import is_out_of_memory
from tuner.engine.seeds import STOCHASTIC_LAYERS, derive
from tuner.engine.slots import Ints
from tuner.errors import InvalidInput
from tuner.workloads.task import Data

log = logging.getLogger(__name__)

TRIED = 3
"""Slots of a dry run."""


class Forward(ABC):
    """Computes gradients into a flat buffer, and new buffers into `extras`, which also holds frozen parameters."""

    path: str

    def __init__(self, architecture: Architecture, params: Tensor, gradients: Tensor) -> None:
        self.architecture = architecture
        self.params = params
        self.gradients = gradients
        self.extras = Extras(architecture.extras(architecture.build(0)), len(params))
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
        self._attends: bool | None = None

        def loss(params: Tensors, extras: Tensors, draws: Draws, data: Data) -> tuple[Tensor, Tensors]:
            return architecture.loss(params, extras, draws, *data, stacked=True)

        self._program = vmap(grad_and_value(loss, has_aux=True))

    def run(self, data: Data, slots: Ints, stream: Stream) -> Tensor:
        """See `Forward.run`. An error is raised: it cannot be told whose it is."""
        width, count = data[0].shape[:2]
        needed = self.architecture.draws
        draws = stacked_draws(width, slots, stream, count, self.params.device) if needed else ()
        with self._kernels():
            gradients, (losses, buffers) = self._program(self._views, self.extras.stacked, draws, data)
        for name, view in self._into.items():
            view.copy_(gradients[name])
        for name, buffer in buffers.items():
            self.extras.stacked[name].copy_(buffer)
        result: Tensor = losses
        return result

    @contextmanager
    def _kernels(self) -> Iterator[None]:
        """Take attention's plain kernel, since the fused ones have no batched form on CPUs; only where it is needed.

        Choosing it costs time, a twelfth of a tick of one small model, so the first call watches for attention.
        """
        if self._attends is False:
            yield
            return
        with sdpa_kernel(SDPBackend.MATH), _AttentionWatch() if self._attends is None else nullcontext() as watch:
            yield
        self._attends = watch.seen if watch is not None else True


class _AttentionWatch(TorchFunctionMode):
    """Notes whether attention is called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See `TorchFunctionMode`."""
        self.seen |= func in (scaled_dot_product_attention, multi_head_attention_forward)
        return func(*args, **(kwargs or {}))


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
                    losses[slot] = self._one(slot, seed, seen, tuple(item[slot] for item in data))
                except Exception as error:  # the trial's boundary: the workload's own code runs here
                    if is_out_of_memory(error):
                        raise
                    self.failures[slot] = traceback.format_exc()
        return losses

    def _one(self, slot: int, seed: int, seen: int, data: Data) -> Tensor:
        layout = self.architecture.layout
        params = {n: v.detach().requires_grad_() for n, v in layout.slot_views(self.params[slot]).items()}
        draws = draws_of(seed, seen, len(data[0]), self.params.device) if self.architecture.draws else ()
        extras = self.extras[slot]
        loss, buffers = self.architecture.loss(params, extras, draws, *data)
        gradients = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        for view, gradient in zip(layout.slot_views(self.gradients[slot]).values(), gradients, strict=True):
            view.zero_() if gradient is None else view.copy_(gradient)
        for name, buffer in buffers.items():
            extras[name].copy_(buffer.detach())
        return loss.detach()


def _seed(seed: int, cuda: bool) -> None:
    """Seed the generators in use; `torch.manual_seed` costs ten times more, by what it notes for absent devices."""
    torch.default_generator.manual_seed(seed)
    if cuda:
        torch.cuda.manual_seed(seed)


def choose_path(architecture: Architecture, train: Data, micro_batch: int) -> str:
    """Try the model under vmap with a few slots on their micro-batches of training data; say `eager` or `loop`.

    `eager` also has to agree with `loop`, and to give every slot its bits wherever it stands: a model may run under
    vmap and yet mix its slots.
    """
    index = torch.arange(TRIED * micro_batch, device=train[0].device) % len(train[0])
    sample = tuple(item[index].view(TRIED, micro_batch, *item.shape[1:]) for item in train)
    reason = _fault_of_vmap(architecture, sample)
    if reason is None:
        return "eager"
    log.warning("the model cannot be stacked and runs slot by slot", extra={"action": "path", "reason": reason})
    return "loop"


def _fault_of_vmap(architecture: Architecture, sample: Data) -> str | None:
    order = list(range(TRIED))
    turned = order[1:] + order[:1]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*batching rule.*")  # it would run slot by slot inside
            losses, gradients = _tried(EagerForward, architecture, sample, order)
            losses_turned, gradients_turned = _tried(EagerForward, architecture, sample, turned)
    except Exception as error:  # whatever vmap cannot take, it says in its own way
        if is_out_of_memory(error):
            raise
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    try:
        losses_single, gradients_single = _tried(LoopForward, architecture, sample, order)
    except InvalidInput as error:
        return str(error).rstrip().rpartition("\n")[2]
    same = torch.allclose(losses, losses_single, rtol=1e-3, atol=1e-5, equal_nan=True)
    if not same or not torch.allclose(gradients, gradients_single, rtol=1e-2, atol=1e-4, equal_nan=True):
        return "its losses or gradients under vmap differ from those of a single model"
    if not _same_bits(losses[turned], losses_turned) or not _same_bits(gradients[turned], gradients_turned):
        return "its losses or gradients under vmap depend on the slot"
    return None


def _tried(kind: type[Forward], architecture: Architecture, sample: Data, seeds: list[int]) -> tuple[Tensor, Tensor]:
    """Return losses and gradients of fresh models of these seeds, each on its seed's part of the sample."""
    params = architecture.layout.allocate(len(seeds), architecture.device)
    forward = kind(architecture, params, torch.zeros_like(params))
    for slot, seed in enumerate(seeds):
        module = architecture.build(seed)
        architecture.layout.write(params[slot], dict(module.named_parameters()))
        forward.extras[slot] = architecture.extras(module)
    losses = forward.run(tuple(item[seeds] for item in sample), np.arange(len(seeds)), lambda slot: (seeds[slot], 0))
    if forward.failures:
        raise InvalidInput(next(iter(forward.failures.values())))
    return losses, forward.gradients


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())
