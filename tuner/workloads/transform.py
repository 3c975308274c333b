"""A task's random changes of training examples, computed where the model is: `Task(transform=...)`.

    def changed(inputs, targets, draws):                     # inputs [b, ...]: the examples of one trial's micro-batch
        return inputs + 0.1 * draws.normal(8), targets       # 8 numbers for each example

Invariant: what is drawn for an example depends on the trial's seed and the example's position in the trial's stream,
that is on epoch and example, and on nothing else. An example's partner is drawn from the whole data set, not from the
batch, so that mixing two examples does not depend on which ones share a micro-batch.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tuner import draws as own_draws
from tuner.errors import Fault, InvalidInput
from tuner.workloads.examples import Data
from tuner.workloads.tree import Structure

PARTNER = "partner"
ATTEMPTS = 32
"""Of `ExampleDraws.beta`: all of them fail with a chance of 2^-32 at most."""


class ExampleDraws:
    """Random numbers for each example of a micro-batch: every result is [b, *shape] for the `shape` that is asked for.

    The functions of `tuner.draws` may be called in a transform as well.
    """

    def __init__(self, like: Tensor) -> None:
        """`like` [b] has the device and the floating-point type of the numbers."""
        self._like = like

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers."""
        return own_draws.normal_like(self._of(shape))

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers uniform in [0, 1)."""
        return own_draws.uniform_like(self._of(shape))

    def bernoulli(self, p: Any, *shape: int) -> Tensor:
        """Return booleans that are true with probability `p`, see `tuner.draws.bernoulli_like`."""
        return own_draws.bernoulli_like(self._of(shape), p) > 0

    def integers(self, high: int, *shape: int) -> Tensor:
        """Return whole numbers, int64, uniform in [0, high)."""
        return own_draws.integers_like(self._of(shape), high)

    def permutation(self, count: int) -> Tensor:
        """Return a permutation of 0 to count - 1 for each example, int64 [b, count]."""
        return own_draws.uniform_like(self._of((count,)).double()).argsort(1)

    def beta(self, a: Any, b: Any, *shape: int) -> Tensor:
        """Return numbers of the Beta distribution; `a`, `b` in (0, 1] are numbers, tensors or a `tuner.Value`.

        By Jöhnk 1964, "Erzeugung von betaverteilten und gammaverteilten Zufallszahlen",
        https://doi.org/10.1007/BF02613706: x = u^(1/a) and y = v^(1/b) give x / (x + y) if x + y <= 1. Computed with
        logarithms, since powers of small parameters are below any number.

        Raises:
            InvalidInput: a parameter that is a number is not in (0, 1].
        """
        for name, value in (("a", a), ("b", b)):
            if isinstance(value, int | float) and not 0 < value <= 1:
                raise InvalidInput(f"draws.beta: {name} is {value!r}; allowed is a number in (0, 1]")
        log_u, log_v = (1 - self.uniform(2, ATTEMPTS, *shape)).log().unbind(1)  # of numbers in (0, 1]
        log_x, log_y = log_u / a, log_v / b  # [b, attempts, *shape]
        fits = torch.logaddexp(log_x, log_y) <= 0
        first = fits & (fits.long().cumsum(1) == 1)
        ratio = torch.where(first, log_x - log_y, 0.0).sum(1)
        return ratio.sigmoid()

    def _of(self, shape: Sequence[int]) -> Tensor:
        return self._like.view(-1, *(1,) * len(shape)).expand(-1, *shape)


class Transform:
    """A function of (inputs, targets, draws), and `partner` if it has that argument, to (inputs, targets).

    `targets` is the target, or a tuple where the data has several or none; `partner` is (inputs, targets) of another
    training example for each.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        """Look at what the function takes. Raises `InvalidInput` unless it can be called with that."""
        self._function = function
        try:
            taken = inspect.signature(function)
        except (TypeError, ValueError):  # neither a function nor an object whose call can be looked at
            raise self._refused("is not a function that takes (inputs, targets, draws)") from None
        self.mixes = PARTNER in taken.parameters
        """Whether it takes partners."""
        try:
            taken.bind(*range(3), **{PARTNER: None} if self.mixes else {})
        except TypeError:
            raise self._refused(
                f"takes {taken}; allowed is (inputs, targets, draws), with `partner` as a fourth argument or without"
            ) from None

    def __call__(self, structure: Structure, data: Data) -> tuple[Any, list[Any]]:
        """Return the inputs and the targets of changed examples; with partners, their tensors follow in `data`."""
        floating = next((item.dtype for item in data if item.is_floating_point()), torch.get_default_dtype())
        draws = ExampleDraws(torch.zeros(len(data[0]), dtype=floating, device=data[0].device))
        own = len(data) // 2 if self.mixes else len(data)
        partner = {PARTNER: _given(structure, data[own:])} if self.mixes else {}
        found = self._function(*_given(structure, data[:own]), draws, **partner)
        if not isinstance(found, tuple | list) or len(found) != 2:
            raise self._refused(f"returned {type(found).__name__}; expected the pair (inputs, targets)")
        inputs, targets = found
        return inputs, [targets] if _has_one(structure) else list(targets)

    @staticmethod
    def _refused(why: str) -> InvalidInput:
        return InvalidInput([Fault("transform", why)])


def _given(structure: Structure, data: Data) -> tuple[Any, Any]:
    targets = structure.targets(data)
    return structure.inputs(data), targets[0] if _has_one(structure) else tuple(targets)


def _has_one(structure: Structure) -> bool:
    return len(structure.template) == 2
