"""Random numbers of the trial's own, for a model's forward pass, a loss or a transform: `tuner.draws`.

    noise = tuner.draws.normal_like(mean)          # [b, ...]: dim 0 is the batch

In a training pass of a stack the numbers are a pure function of the trial's seed, the example's position in the trial's
stream, the number of the call within the pass, and the element's position within its example. So they are the same in
any slot, beside any neighbours, for any micro-batch and after any snapshot, and again where a step's loss is evaluated
again. In an evaluation they belong to the trial's seed and the validation example: the same in every evaluation of a
trial. Outside of a stack, as in a script of your own, they are those of torch's generator.

Invariant: this file holds the distributions; where the random words come from is the engine's (`layers/counted.py`),
which lets a source stand here while a pass runs.
"""

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from tuner.errors import InvalidInput

__all__ = ["bernoulli_like", "integers_like", "normal_like", "uniform_like"]

MOST = 1 << 31
"""Most different numbers of `integers_like`: products with a word stay within int64."""

DIGITS = {torch.float64: 32, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}
"""Random bits of a uniform number: as many as its type holds exactly in [0, 1), at most one word."""


class Source(Protocol):
    """Random words for one pass."""

    def words(self, shape: torch.Size) -> Tensor:
        """Return words in [0, 2^32), int64, of the next call for a tensor of this shape, the batch along dim 0."""
        ...


class _Pass:
    """What a draw sees of the pass that runs."""

    source: Source | None = None


_pass = _Pass()


def normal_like(x: Tensor) -> Tensor:
    """Return standard normal numbers of the shape, type and device of `x` [b, ...].

    By Box and Muller 1958, "A note on the generation of random normal deviates",
    https://doi.org/10.1214/aoms/1177706645: two words w, v give r cos a and r sin a, where r^2 = -2 ln((w + 1) / 2^32)
    and a = 2 pi v / 2^32. Hence no number is beyond 6.7.

    Raises:
        InvalidInput: `x` is not floating-point, or its dim 0 is not a multiple of the batch.
    """
    _check_floating(x, "normal_like")
    source = _pass.source
    if source is None:
        return torch.randn_like(x)
    each = x.shape[1:].numel()
    pairs = (each + 1) // 2
    words = source.words(torch.Size((*x.shape[:1], 2 * pairs)) if x.dim() else x.shape).view(-1, 2, pairs)
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    radius = (-2 * ((words[:, 0] + 1).to(exact) * 2.0**-32).log()).sqrt()
    angle = words[:, 1].to(exact) * (2 * math.pi * 2.0**-32)
    found = torch.cat([radius * angle.cos(), radius * angle.sin()], 1)
    return found[:, :each].reshape(x.shape).to(x.dtype)


def uniform_like(x: Tensor) -> Tensor:
    """Return numbers uniform in [0, 1) of the shape, type and device of `x` [b, ...].

    Raises:
        InvalidInput: `x` is not floating-point, or its dim 0 is not a multiple of the batch.
    """
    _check_floating(x, "uniform_like")
    source = _pass.source
    if source is None:
        return torch.rand_like(x)
    digits = DIGITS[x.dtype]
    found: Tensor = (source.words(x.shape) >> (32 - digits)).to(x.dtype) * 2.0**-digits
    return found


def bernoulli_like(x: Tensor, p: Any) -> Tensor:
    """Return ones, with probability `p`, and zeros, of the shape, type and device of `x` [b, ...].

    `p` is in [0, 1]: a number, a tensor that broadcasts to `x`, or a `tuner.Value`.

    Raises:
        InvalidInput: the number `p` is not in [0, 1], or dim 0 of `x` is not a multiple of the batch.
    """
    if isinstance(p, int | float) and not 0 <= p <= 1:
        raise InvalidInput(f"tuner.draws.bernoulli_like: p is {p!r}; allowed is a probability in [0, 1]")
    source = _pass.source
    if source is None:
        drawn: Tensor = torch.rand(x.shape, device=x.device) < p
        return drawn.to(x.dtype)
    share = p * 2.0**32
    below = share.double().round().long() if isinstance(share, Tensor) else round(share)
    found: Tensor = (source.words(x.shape) < below).to(x.dtype)
    return found


def integers_like(x: Tensor, high: int) -> Tensor:
    """Return whole numbers, int64, uniform in [0, high), of the shape and device of `x` [b, ...].

    A number's chance differs from 1 / high by less than 2^-32.

    Raises:
        InvalidInput: `high` is not in 1 to 2^31, or dim 0 of `x` is not a multiple of the batch.
    """
    if not 1 <= high <= MOST:
        raise InvalidInput(f"tuner.draws.integers_like: high is {high!r}; allowed is a whole number from 1 to {MOST}")
    source = _pass.source
    if source is None:
        return torch.randint(high, x.shape, device=x.device)
    return (source.words(x.shape) * high) >> 32


def _check_floating(x: Tensor, name: str) -> None:
    if x.dtype not in DIGITS:
        kind = str(x.dtype).removeprefix("torch.")
        raise InvalidInput(f"tuner.draws.{name}: the tensor is {kind}; allowed is a real floating-point one")


def begin(source: Source) -> None:
    """Draw from this source until `end`: the engine's, around a pass."""
    _pass.source = source


def end() -> None:
    """Draw from torch's generator again."""
    _pass.source = None
