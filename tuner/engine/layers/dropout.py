"""Dropout without a generator: whether an element is kept is a pure function of its position and the trial's key.

The bits come from Philox with the trial's key and the counter (example, site, position): the example's position in the
trial's stream, the dropout call within the model, and the element's position within its example. Hence a trial draws
the same masks in any slot, with any neighbours and after any snapshot; if dim 0 of the activation is the batch, also
for any micro-batch. Repeated evaluations of the same examples get the same masks: a line search sees one function.

The layers replace torch's on a copy of the model, by type: direct calls of `F.dropout` are not replaced. A probability
may be a number of each trial (`tuner.Value`).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from tuner.engine.layers.philox import MASK, philox
from tuner.engine.seeds import STOCHASTIC_LAYERS, derive
from tuner.engine.slots import Ints
from tuner.workloads.value import SlotValue

Stream = Callable[[int], tuple[int, int]]
"""Slot -> (seed, examples seen)."""

Draws = tuple[Tensor, ...]
"""The inputs of dropout: (key [2], examples [b]), int64, with a slot axis in a stack; empty without dropout."""

CALLS = 1 << 16
"""Number of calls of one layer in one forward pass that get distinct masks."""


class CounterDropout(nn.Dropout):
    """Counter-based `nn.Dropout`. `key` [2] and `examples` [b] are passed in with the parameters."""

    key: Tensor
    examples: Tensor
    site: int
    calls: int

    def forward(self, input: Tensor) -> Tensor:
        """Zero elements with probability p and scale the others by 1 / (1 - p)."""
        of_each_trial = isinstance(self.p, SlotValue)
        if not self.training or (not of_each_trial and self.p == 0):
            return input
        shape = self._mask_shape(input)
        site = self.site * CALLS + self.calls
        self.calls += 1
        bits = random_words(self.key, self.examples, site, shape.numel()).view(shape)
        if of_each_trial:
            return _dropped(input, bits, cast(SlotValue, self.p).tensor)
        keep = bits >= round(self.p * 2**32)
        return torch.where(keep, input * (1 / (1 - self.p) if self.p < 1 else 0.0), 0.0)

    def _mask_shape(self, input: Tensor) -> torch.Size:
        return input.shape


class CounterChannelDropout(CounterDropout):
    """Counter-based `nn.Dropout1d`, `2d`, `3d`: drops whole channels of [b, channels, ...]."""

    def _mask_shape(self, input: Tensor) -> torch.Size:
        return torch.Size((*input.shape[:2], *(1,) * (input.dim() - 2)))


def _dropped(input: Tensor, bits: Tensor, p: Tensor) -> Tensor:
    """Do the same with a probability that is a tensor without dimensions."""
    keep = bits >= (p * 2**32).round().long()
    scale = torch.where(p < 1, 1 / (1 - p), 0.0)
    return torch.where(keep, input * scale.to(input.dtype), 0.0)


_REPLACEMENTS: dict[type[nn.Module], type[CounterDropout]] = {
    nn.Dropout: CounterDropout,
    nn.Dropout1d: CounterChannelDropout,
    nn.Dropout2d: CounterChannelDropout,
    nn.Dropout3d: CounterChannelDropout,
}


def install(model: nn.Module) -> dict[str, CounterDropout]:
    """Make the dropout layers of `model` counter-based, in place; return those that draw at all, by name."""
    found = {name: part for name, part in model.named_modules() if type(part) in _REPLACEMENTS}
    for site, part in enumerate(found.values()):
        part.__class__ = _REPLACEMENTS[type(part)]
        layer = cast(CounterDropout, part)
        layer.register_buffer("key", torch.zeros(2, dtype=torch.int64), persistent=False)
        layer.register_buffer("examples", torch.zeros(1, dtype=torch.int64), persistent=False)
        layer.site, layer.calls = site, 0
    return {name: cast(CounterDropout, part) for name, part in found.items() if part.p}


def disarm(model: nn.Module) -> None:
    """Let the dropout layers of a model in evaluation mode have a probability that is one of each trial, in place."""
    for part in model.modules():
        if type(part) in _REPLACEMENTS and isinstance(part.p, SlotValue):
            part.__class__ = _REPLACEMENTS[type(part)]


def random_words(key: Tensor, examples: Tensor, site: int, count: int) -> Tensor:
    """Return `count` words of 32 bits, divided evenly among the examples [b] in order.

    If `count` is not a multiple of b, all are drawn with the counter of the first example, which no later call repeats.
    """
    if count % len(examples):
        examples = examples[:1]
    each = count // len(examples)
    position = torch.arange(-(-each // 4), device=examples.device)[None]
    low, high = examples[:, None] & MASK, examples[:, None] >> 32
    words = philox((position, torch.full_like(position, site), low, high), (key[0], key[1]))
    return torch.stack(words, -1).flatten(1)[:, :each].flatten()


def draws_of(seed: int, seen: int, count: int, device: torch.device) -> Draws:
    """Return the draws of one trial whose next micro-batch is `count` examples from position `seen`."""
    return torch.tensor(_key(seed), device=device), torch.arange(seen, seen + count, device=device)


def stacked_draws(width: int, slots: Ints, stream: Stream, count: int, device: torch.device) -> Draws:
    """Return the draws of all slots, ([width, 2], [width, count]); free slots get zeros."""
    keys, seen = np.zeros((width, 2), np.int64), np.zeros((width, 1), np.int64)
    for slot in slots.tolist():
        seed, seen[slot] = stream(slot)
        keys[slot] = _key(seed)
    return torch.from_numpy(keys).to(device), torch.from_numpy(seen + np.arange(count)).to(device)


@lru_cache(maxsize=4096)
def _key(seed: int) -> tuple[int, int]:
    value = derive(seed, STOCHASTIC_LAYERS)
    return value & MASK, value >> 32
