"""Which examples a trial sees, in which order: one endless stream per trial, wrapping epochs.

The stream depends only on the trial's seed and the size of the data set. It does not depend on micro-batch or batch
size, so trials that differ in them see the same examples at the same count. Each epoch is a permutation of all
examples that is computed where it is read, so it takes no memory and an epoch costs nothing to begin:

    place = (high, low), low < 2^h, high < m, m 2^h >= examples and less than sqrt(examples) or so above
    odd rounds:  high <- (high + F(low)) mod m        even rounds:  low <- low xor F(high)

a Feistel network over unequal halves; a result beyond the last example is put in again until it is one (cycle-walking).
Both: Black & Rogaway 2002, "Ciphers with arbitrary finite domains", CT-RSA, https://doi.org/10.1007/3-540-45760-7_9.
Keys are those of Philox (`layers/philox.py`): two words per trial and epoch, a constant added after every round. F is
two multiplications with a shift between, as in hash tables, and not meant to keep secrets.

Invariant: all arithmetic is on whole numbers of fixed width, so the stream is the same on every machine.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.engine.layers.philox import MASK, philox
from tuner.engine.partners import entries, uniform_each
from tuner.engine.seeds import DATA_ORDER, PARTNERS, derive
from tuner.engine.slots import Ints
from tuner.engine.weighted_draws import Chances

ROUNDS = 8
FEW, ROUNDS_FOR_FEW = 256, 24
"""Up to so many examples it takes so many rounds until all orders are equally likely: halves of few bits mix slowly."""
_MULTIPLIERS = (0xD2511F53CD9E8D57, 0x9E3779B97F4A7C15)
"""Of F, both odd, also where only their low 32 bits are used."""
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_CHUNK = 2**14
"""Numbers computed at once: their intermediate results stay in a core's cache."""
_NARROW = 2**31
"""Up to so many examples, 32 bits hold everything; it takes half the time that 64 bits do."""


class DataOrder:
    """The stream of example numbers of one trial: a fresh permutation of 0..examples-1 per epoch, or weighted draws."""

    def __init__(self, seed: int, examples: int, chances: Chances | None = None, mixes: bool = False) -> None:
        """`mixes`: its entries hold the examples' partners as well (`partners.py`)."""
        self.seed = seed
        self.examples = examples
        self.chances = chances
        self.mixes = mixes
        self.key = derive(seed, DATA_ORDER)

    def take(self, start: int, count: int) -> Ints:
        """Return `count` example numbers of the stream, starting at position `start` (examples seen so far)."""
        found: Ints = take_each([self], [start], count)[0]
        return found


class Orders:
    """The streams of the trials of one task."""

    def __init__(self, examples: int, weights: NDArray[np.float64] | None = None, mixes: bool = False) -> None:
        """`weights` [examples], if given, are those of weighted draws; `mixes`: examples have partners."""
        self._examples = examples
        self.mixes = mixes
        self._chances = None if weights is None else Chances(weights)

    def of(self, seed: int) -> DataOrder:
        """Return the stream of a trial's seed."""
        return DataOrder(seed, self._examples, self._chances, self.mixes)


def take_each(orders: Sequence[DataOrder], starts: Sequence[int], count: int) -> Ints:
    """Return `count` entries of each of n streams over the same data, from its own position, [n, count]."""
    if not orders or not count:
        return np.empty((len(orders), count), np.int64)
    seeds, examples, chances = [order.seed for order in orders], orders[0].examples, orders[0].chances
    if chances is None:
        numbers = _in_epochs(orders, starts, count)
        partners = uniform_each(seeds, starts, count, examples) if orders[0].mixes else None
    else:
        numbers = chances.take_each(seeds, starts, count)
        partners = chances.take_each(seeds, starts, count, PARTNERS) if orders[0].mixes else None
    return numbers if partners is None else entries(numbers, partners)


def _in_epochs(orders: Sequence[DataOrder], starts: Sequence[int], count: int) -> Ints:
    examples = orders[0].examples
    first = np.asarray(starts, np.int64)
    last = first + count - 1
    # The stretches of the streams within one epoch, stream by stream.
    epochs_of = last // examples - first // examples + 1
    stream = np.repeat(np.arange(len(orders)), epochs_of)
    epoch = first[stream] // examples + np.arange(len(stream)) - np.repeat(np.cumsum(epochs_of) - epochs_of, epochs_of)
    start = np.maximum(first[stream], epoch * examples)
    length = np.minimum(last[stream] + 1, (epoch + 1) * examples) - start
    shift = start - epoch * examples - (np.cumsum(length) - length)
    kind = np.uint32 if examples <= _NARROW else np.uint64
    # Differences wrap round, and so do their sums, which are places again.
    place = np.arange(len(orders) * count, dtype=kind) + np.repeat(shift.astype(kind), length)
    keys = np.array([order.key for order in orders], np.uint64)[stream]
    return permute(place, _words(keys, epoch), length, examples).reshape(len(orders), count)


def permute(place: NDArray[Any], words: tuple[Ints, Ints], lengths: Ints, examples: int) -> Ints:
    """Return where permutations of 0..examples-1 take places [n], which are of an unsigned type.

    `words` are the keys of the permutations, each [k], and `lengths` [k] say how many places belong to each, in order.
    """
    found = np.empty_like(place)
    keys = [np.repeat(word.astype(place.dtype), lengths) for word in words]
    for first in range(0, len(found), _CHUNK):
        part = slice(first, first + _CHUNK)
        found[part] = _once(place[part], [key[part] for key in keys], examples)
    beyond = np.flatnonzero(found >= examples)
    while len(beyond):
        found[beyond] = _once(found[beyond], [key[beyond] for key in keys], examples)
        beyond = beyond[found[beyond] >= examples]
    return found.astype(np.int64)


def _words(keys: NDArray[np.uint64], epochs: Ints) -> tuple[Ints, Ints]:
    """Return two words for each pair of a trial's key and an epoch."""
    zero = np.zeros_like(epochs)
    low, high = (keys & np.uint64(MASK)).astype(np.int64), (keys >> np.uint64(32)).astype(np.int64)
    found = philox((epochs & MASK, epochs >> 32, zero, zero), (low, high))
    return found[0], found[1]


def _once(place: NDArray[Any], keys: list[NDArray[Any]], examples: int) -> NDArray[Any]:
    """Return places below m 2^h after the rounds."""
    kind = place.dtype.type
    half, h = kind(place.itemsize * 4), max(1, examples.bit_length() // 2)
    m, mask = kind(-(-examples // (1 << h))), kind((1 << h) - 1)
    first, second = (kind(value & int(np.iinfo(kind).max)) for value in _MULTIPLIERS)
    keys = [key.copy() for key in keys]
    high, low = place >> kind(h), place & mask
    mixed, shifted = np.empty_like(place), np.empty_like(place)
    for turn in range(ROUNDS if examples > FEW else ROUNDS_FOR_FEW):
        key = keys[turn % 2]
        np.bitwise_xor(high if turn % 2 else low, key, out=mixed)
        np.add(key, kind(_KEY_STEPS[turn % 2]), out=key)
        np.multiply(mixed, first, out=mixed)
        np.right_shift(mixed, half, out=shifted)
        np.bitwise_xor(mixed, shifted, out=mixed)
        np.multiply(mixed, second, out=mixed)
        np.right_shift(mixed, half, out=mixed)  # half a word
        if turn % 2:
            np.bitwise_and(mixed, mask, out=mixed)
            np.bitwise_xor(low, mixed, out=low)
        else:
            np.multiply(mixed, m, out=mixed)
            np.right_shift(mixed, half, out=mixed)  # below m
            np.add(high, mixed, out=high)
            np.subtract(high, m, out=mixed)  # wraps round where high < m, and is then the larger
            np.minimum(high, mixed, out=high)
    result: NDArray[Any] = high << kind(h) | low
    return result
