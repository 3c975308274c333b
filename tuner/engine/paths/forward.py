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
from torch.func import grad, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import multi_head_attention_forward, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from tuner.engine.architecture import Architecture, Tensors
from tuner.engine.extras import Extras
from tuner.engine.layers.drawing import draw_from, drawing
from tuner.engine.layers.dropout import Draws, Stream, draws_of, stacked_draws
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.engine.seeds import STOCHASTIC_LAYERS, derive
from tuner.engine.slots import Ints, Slots
from tuner.errors import InvalidInput
from tuner.workloads.task import Data

log = logging.getLogger(__name__)

TRIED = 3
"""Slots of a dry run."""
SLOT_DEPENDENT = "its losses or gradients under vmap depend on the slot"


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

    def accumulate(
        self, data: Data, sums: Tensor, counts: Tensor, slots: Slots, stream: Stream, found: Tensor
    ) -> Tensor | None:
        """Add the micro-batch gradients of a tick to `sums` [width, P].

        Fills `found` [3, width] (float64) with the losses, the squared norms of the micro-batch gradients and those of
        the means sums / K, `counts` [width] being K. What is cheaper to take when a slot is due is left out: then the
        row for the means' norms is returned, to be filled when slots are stepped.
        """
        found[0].copy_(self.run(data, slots.busy(), stream))
        wanted = slots.measures_noise
        if wanted:
            found[1].copy_(squared_norm(self.gradients))
        sums.add_(self.gradients)
        return found[2] if wanted else None


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

        def turned(params: Tensors, vectors: Tensors, extras: Tensors, draws: Draws, data: Data) -> Tensors:
            def slope(params: Tensors) -> Tensor:
                gradients = grad(loss, has_aux=True)(params, extras, draws, data)[0]
                slopes = [(gradients[name] * vectors[name]).sum() for name in vectors]
                return torch.stack(slopes).sum()

            result: Tensors = grad(slope)(params)
            return result

        self._program = vmap(grad_and_value(loss, has_aux=True))
        self._products = vmap(turned)

    def run(self, data: Data, slots: Ints, stream: Stream) -> Tensor:
        """See `Forward.run`. An error is raised: it cannot be assigned to a slot."""
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

    def hessian_vector(self, data: Data, slots: Ints, stream: Stream, vectors: Tensor) -> None:
        """Fill `gradients` with the Hessians of the same losses as in `run` times `vectors` [width, P].

        By differentiating the gradient's product with the vector, which more layers allow than forward mode.
        """
        width, count = data[0].shape[:2]
        draws = stacked_draws(width, slots, stream, count, self.params.device) if self.architecture.draws else ()
        along = self.architecture.layout.views(vectors)
        with self._kernels():
            found = self._products(self._views, along, self.extras.stacked, draws, data)
        for name, view in self._into.items():
            view.copy_(found[name])

    @contextmanager
    def _kernels(self) -> Iterator[None]:
        """Use attention's plain kernel where it is needed, since the fused ones have no batched form on CPUs.

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
        return self._each(data, slots, stream, None)

    def hessian_vector(self, data: Data, slots: Ints, stream: Stream, vectors: Tensor) -> None:
        """See `EagerForward.hessian_vector`."""
        self._each(data, slots, stream, vectors)

    def _each(self, data: Data, slots: Ints, stream: Stream, vectors: Tensor | None) -> Tensor:
        self.failures = {}
        losses = torch.zeros(len(self.params), dtype=self.params.dtype, device=self.params.device)
        with drawing(self.params.device):
            for slot in slots.tolist():
                seed, seen = stream(slot)
                draw_from(derive(seed, STOCHASTIC_LAYERS, seen), self.params.device)
                try:
                    own = tuple(item[slot] for item in data)
                    with nullcontext() if vectors is None else sdpa_kernel(SDPBackend.MATH):  # the fused derive once
                        losses[slot] = self._one(slot, seed, seen, own, None if vectors is None else vectors[slot])
                except Exception as error:  # the trial's boundary: the workload's own code runs here
                    if is_out_of_memory(error):
                        raise
                    self.failures[slot] = traceback.format_exc()
        return losses

    def _one(self, slot: int, seed: int, seen: int, data: Data, vector: Tensor | None) -> Tensor:
        layout = self.architecture.layout
        params = {n: v.detach().requires_grad_() for n, v in layout.slot_views(self.params[slot]).items()}
        draws = draws_of(seed, seen, len(data[0]), self.params.device) if self.architecture.draws else ()
        extras = self.extras[slot]
        loss, buffers = self.architecture.loss(params, extras, draws, *data)
        leaves, twice = list(params.values()), vector is not None
        gradients = torch.autograd.grad(loss, leaves, create_graph=twice, allow_unused=True, materialize_grads=twice)
        if vector is not None:
            slopes = [
                (gradient * along).sum()
                for gradient, along in zip(gradients, layout.slot_views(vector).values(), strict=True)
                if gradient.requires_grad
            ]
            gradients = tuple(torch.zeros_like(leaf) for leaf in leaves)
            if slopes:
                gradients = torch.autograd.grad(torch.stack(slopes).sum(), leaves, allow_unused=True)
        for view, gradient in zip(layout.slot_views(self.gradients[slot]).values(), gradients, strict=True):
            view.zero_() if gradient is None else view.copy_(gradient)
        for name, buffer in buffers.items():
            extras[name].copy_(buffer.detach())
        return loss.detach()


def squared_norm(rows: Tensor) -> Tensor:
    """Return |row|^2 of each row of [n, P], float64 [n]: rounded once per element, added up in float64."""
    return (rows * rows).sum(1, dtype=torch.float64)


def fault_of_vmap(architecture: Architecture, train: Data, micro_batch: int) -> str | None:
    """Try the model under vmap with a few slots on their micro-batches of training data; return what is wrong, or None.

    Its results also have to agree with those of `loop`, and every slot to get its bits wherever it stands
    (`SLOT_DEPENDENT`): a model may run under vmap and yet mix its slots.
    """
    index = torch.arange(TRIED * micro_batch, device=train[0].device) % len(train[0])
    sample = tuple(item[index].view(TRIED, micro_batch, *item.shape[1:]) for item in train)
    order = list(range(TRIED))
    turned = order[1:] + order[:1]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*batching rule.*")  # it would run slot by slot inside
            losses, gradients = _tried(EagerForward, architecture, sample, order)
            losses_turned, gradients_turned = _tried(EagerForward, architecture, sample, turned)
    except Exception as error:  # what vmap cannot take shows in many kinds of error
        if is_out_of_memory(error):
            raise
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    try:
        if not agrees_with_loop(architecture, sample, losses, gradients):
            return "its losses or gradients under vmap differ from those of a single model"
    except InvalidInput as error:
        return str(error).rstrip().rpartition("\n")[2]
    if not _same_bits(losses[turned], losses_turned) or not _same_bits(gradients[turned], gradients_turned):
        return SLOT_DEPENDENT
    return None


def agrees_with_loop(architecture: Architecture, sample: Data, losses: Tensor, gradients: Tensor) -> bool:
    """Whether these [n], [n, P] are what `loop` computes for fresh models of seeds 0 to n - 1 on a sample [n, b, ...].

    Raises `InvalidInput` with its traceback when a model cannot run at all.
    """
    losses_single, gradients_single = _tried(LoopForward, architecture, sample, list(range(len(losses))))
    rough = architecture.task.precision == "bf16"  # 8 bits of a product's factors
    loose = 20 if rough else 1
    size = gradients_single.nan_to_num().abs().max().item() if rough else 1e-2
    close = torch.allclose(losses, losses_single, rtol=1e-3 * loose, atol=1e-5, equal_nan=True)
    return close and torch.allclose(gradients, gradients_single, rtol=1e-2 * loose, atol=1e-2 * size, equal_nan=True)


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
