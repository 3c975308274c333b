"""The gradient-noise statistics of one optimizer step, and their sums over many steps.

A step that accumulated K micro-batch gradients x_1..x_K, each the mean over b examples, gives two unbiased numbers
(McCandlish, Kaplan, Amodei et al. 2018, arXiv 1812.06162, appendix A.1), with B = K b, small = mean of |x_k|^2 and
big = |mean of x_k|^2:

    S = (small - big) / (1/b - 1/B)        E S = tr Sigma   (trace of the per-example gradient covariance)
    Q = (B big - b small) / (B - b)        E Q = |G|^2      (squared norm of the true gradient)

Invariants: only sums are kept, never ratios, because a mean of ratios is biased and can even have the wrong sign; S
and Q are stored unchanged (Q may be negative, and clamping it would bias |G|^2 upwards); the finite-set correction
belongs to the estimator, so that stored rows stay valid when the size of the training set becomes known later.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tuner.errors import Fault, InvalidInput


@dataclass(frozen=True)
class NoiseSums:
    """Sums over n optimizer steps: S, Q, S^2, Q^2 and S Q. Adding two of them combines their steps."""

    n: int = 0
    s: float = 0.0
    q: float = 0.0
    ss: float = 0.0
    qq: float = 0.0
    sq: float = 0.0

    def __post_init__(self) -> None:
        if all(map(math.isfinite, self.values)) and self.n >= 0 and self.ss >= 0 and self.qq >= 0:
            return
        faults = [
            Fault(name, f"is {value!r}; allowed is a finite number" + (" >= 0" if name in ("n", "ss", "qq") else ""))
            for name, value in zip(("n", "s", "q", "ss", "qq", "sq"), self.values, strict=True)
            if not math.isfinite(value) or (value < 0 and name in ("n", "ss", "qq"))
        ]
        raise InvalidInput(faults)

    @property
    def values(self) -> tuple[int, float, float, float, float, float]:
        """Return n, s, q, ss, qq, sq."""
        return self.n, self.s, self.q, self.ss, self.qq, self.sq

    def __add__(self, other: "NoiseSums") -> "NoiseSums":
        return NoiseSums(
            self.n + other.n,
            self.s + other.s,
            self.q + other.q,
            self.ss + other.ss,
            self.qq + other.qq,
            self.sq + other.sq,
        )

    @classmethod
    def of_step(cls, small: float, big: float, micro_batch: int, count: int) -> "NoiseSums":
        """Return the sums of a single step.

        `small` is the mean of |x_k|^2 over the micro-batch gradients, `big` is |mean of x_k|^2, both >= 0, in squared
        gradient units; `micro_batch` >= 1 is b in examples; `count` >= 2 is K. Every x_k is the gradient of a *mean*
        over its examples, all at the same parameters. Raises InvalidInput with every fault.
        """
        faults = [
            Fault(name, f"is {value!r}; allowed is a finite number >= 0")
            for name, value in (("small", small), ("big", big))
            if not (math.isfinite(value) and value >= 0)
        ]
        faults += [
            Fault(name, f"is {value!r}; allowed is a whole number >= {least}")
            for name, value, least in (("micro_batch", micro_batch, 1), ("count", count, 2))
            if not (math.isfinite(value) and value >= least and float(value).is_integer())
        ]
        if faults:
            raise InvalidInput(faults)
        small, big = float(small), float(big)  # converts numpy and torch scalars
        batch = micro_batch * count
        s = (small - big) / (1 / micro_batch - 1 / batch)
        q = (count * big - small) / (count - 1)
        return cls(1, s, q, s * s, q * q, s * q)


class Accumulated:
    """Sums that steps of one trial are added to in a tick loop: the numbers of `NoiseSums`, without its checks."""

    def __init__(self, start: NoiseSums) -> None:
        self._n, self._s, self._q, self._ss, self._qq, self._sq = start.values

    def add_step(self, small: float, big: float, micro_batch: int, count: int) -> None:
        """Add one step, as `NoiseSums.of_step` describes it; both squares must be finite and >= 0, `count` >= 2."""
        s = (small - big) / (1 / micro_batch - 1 / (micro_batch * count))
        q = (count * big - small) / (count - 1)
        self._n += 1
        self._s += s
        self._q += q
        self._ss += s * s
        self._qq += q * q
        self._sq += s * q

    def sums(self) -> NoiseSums:
        """Return the sums so far. Raises InvalidInput where one is not finite."""
        return NoiseSums(self._n, self._s, self._q, self._ss, self._qq, self._sq)


def total(rows: Iterable[NoiseSums]) -> NoiseSums:
    """Combine the steps of all rows."""
    return sum(rows, NoiseSums())
