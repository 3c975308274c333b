"""Dropout without a generator: whether an element is kept is a function of who asks, and of nothing else.

The bits are Philox's under the trial's key, counted by (example, site, position): the example's place in the trial's
stream, which dropout call of the model asks, and the element's place within its example. Hence a trial draws the same
masks in any slot, beside any neighbours and after any snapshot; where dim 0 of the activation is the batch, also for
any micro-batch. Asked again about the same examples, it gives the same masks: a line search sees one function.

The layers replace torch's on a copy of the model, by type: models that call `F.dropout` themselves are not reached.
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

Stream = Callable[[int], tuple[int, int]]
"""Slot -> (seed, examples seen)."""

Draws = tuple[Tensor, ...]
"""What dropout depends on: (key [2], examples [b]), int64, with a slot axis in a stack; empty without dropout."""

CALLS = 1 << 16
"""Calls of one layer in one forward pass that are told apart."""


class CounterDropout(nn.Dropout):
    """`nn.Dropout` on counters. `key` [2] and `examples` [b] are handed in with the parameters."""

    key: Tensor
    examples: Tensor
    site: int
    calls: int

    def forward(self, input: Tensor) -> Tensor:
        """Zero elements with probability p and scale the others by 1 / (1 - p)."""
        if not self.training or self.p == 0:
            return input
        shape = self._mask_shape(input)
        site = self.site * CALLS + self.calls
        self.calls += 1
        bits = random_words(self.key, self.examples, site, shape.numel()).view(shape)
        keep = bits >= round(self.p * 2**32)
        return torch.where(keep, input * (1 / (1 - self.p) if self.p < 1 else 0.0), 0.0)

    def _mask_shape(self, input: Tensor) -> torch.Size:
        return input.shape


class CounterChannelDropout(CounterDropout):
    """`nn.Dropout1d`, `2d`, `3d` on counters: whole channels of [b, channels, ...] at a time."""

    def _mask_shape(self, input: Tensor) -> torch.Size:
        return torch.Size((*input.shape[:2], *(1,) * (input.dim() - 2)))


_REPLACEMENTS: dict[type[nn.Module], type[CounterDropout]] = {
    nn.Dropout: CounterDropout,
    nn.Dropout1d: CounterChannelDropout,
    nn.Dropout2d: CounterChannelDropout,
    nn.Dropout3d: CounterChannelDropout,
}


def install(model: nn.Module) -> dict[str, CounterDropout]:
    """Turn the dropout layers of `model`, in place, into counting ones; return those that draw at all, by name."""
    found = {name: part for name, part in model.named_modules() if type(part) in _REPLACEMENTS}
    for site, part in enumerate(found.values()):
        part.__class__ = _REPLACEMENTS[type(part)]
        layer = cast(CounterDropout, part)
        layer.register_buffer("key", torch.zeros(2, dtype=torch.int64), persistent=False)
        layer.register_buffer("examples", torch.zeros(1, dtype=torch.int64), persistent=False)
        layer.site, layer.calls = site, 0
    return {name: cast(CounterDropout, part) for name, part in found.items() if part.p}


def random_words(key: Tensor, examples: Tensor, site: int, count: int) -> Tensor:
    """Return `count` words of 32 bits, shared out evenly among the examples [b] in order.

    Where `count` is no multiple of b, all are drawn under the first example: no later call repeats its place.
    """
    if count % len(examples):
        examples = examples[:1]
    each = count // len(examples)
    position = torch.arange(-(-each // 4), device=examples.device)[None]
    low, high = examples[:, None] & MASK, examples[:, None] >> 32
    words = philox((position, torch.full_like(position, site), low, high), (key[0], key[1]))
    return torch.stack(words, -1).flatten(1)[:, :each].flatten()


def draws_of(seed: int, seen: int, count: int, device: torch.device) -> Draws:
    """Return the draws of one trial whose next micro-batch is `count` examples from place `seen` on."""
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
