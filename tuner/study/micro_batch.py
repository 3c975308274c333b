"""The micro-batches of a study: how many examples each slot sees per tick. They are part of the study's identity.

They follow from the document alone, so that the same document means the same training on any machine. Batch sizes that
are close form a *group* with one micro-batch b, which divides them all; others form groups, and thus stacks, of their
own. Three measured facts make the rule (`docs/engine.md`):

- A tick of few examples costs nearly as much as one of many, so b is as large as it can be: half of the group's
  smallest batch, or a quarter where that is still `FULL` examples or more.
- A batch in a group whose smallest is `APART` times smaller would make as many times more ticks than it needs.
- A common divisor that is much smaller than half of a batch costs as much: a size that would bring it down starts
  another group, and one that cannot be split into a few parts is trained whole. Its noise is not measured.

The cost is linear in the number of sizes, and does not grow with them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import gcd, isqrt

APART = 4
"""Sizes whose ratio is this or more are in different groups."""
FULL = 128
"""Examples per tick beyond which more per tick are hardly cheaper each: then four parts measure the noise better."""
MOST_PARTS = 32
"""A batch that is not a multiple of anything larger than this part of it is not split."""
MOST_OPEN = 3
"""Groups among which a size can be: so many at a time, so that awkward sizes do not have a stack each."""


@dataclass(frozen=True)
class Group:
    """Batch sizes of a study that share a micro-batch, and thus a stack."""

    micro_batch: int
    batch_sizes: tuple[int, ...]

    @property
    def per_tick(self) -> int:
        """How many micro-batches a tick computes side by side, where the model allows it: two, if that divides all."""
        return 2 if all(size % (2 * self.micro_batch) == 0 for size in self.batch_sizes) else 1


@dataclass
class _Open:
    """A group that grows, its sizes ascending."""

    sizes: list[int]
    common: int

    @property
    def alone(self) -> int:
        """The micro-batch that its smallest size would have alone."""
        return _split(self.sizes[0], self.sizes[0])

    def with_size(self, size: int) -> int:
        """Return the micro-batch that the group would have with a further size."""
        return _split(gcd(self.common, size), self.sizes[0])

    def bears(self, size: int) -> bool:
        """Whether the group's micro-batch stays near what it could be with a further size."""
        return 2 * self.with_size(size) >= self.alone

    def suits(self, size: int) -> bool:
        """Whether the further size is not much worse off than alone either."""
        return self.bears(size) and APART * self.with_size(size) >= _split(size, size)


def grouped(batch_sizes: Iterable[int]) -> list[Group]:
    """Divide batch sizes into groups, by their smallest one. Each size is a multiple of its group's micro-batch."""
    return list(_grouped(tuple(sorted(set(batch_sizes)))))


@lru_cache(maxsize=64)
def _grouped(batch_sizes: tuple[int, ...]) -> tuple[Group, ...]:
    groups: list[_Open] = []
    near: list[_Open] = []
    for size in batch_sizes:
        near = [group for group in near if size < APART * group.sizes[0]]
        fitting = [group for group in near if group.suits(size)]
        if not fitting and len(near) == MOST_OPEN:
            fitting = [group for group in near if group.bears(size)] or [min(near, key=lambda group: group.alone)]
        if fitting:
            group = max(fitting, key=lambda group: group.with_size(size))
            group.sizes.append(size)
            group.common = gcd(group.common, size)
        else:
            near.append(_Open([size], size))
            groups.append(near[-1])
    found: dict[int, list[int]] = {}
    for group in groups:
        found.setdefault(common_micro_batch(group.sizes), []).extend(group.sizes)
    return tuple(Group(micro_batch, tuple(sorted(sizes))) for micro_batch, sizes in found.items())


def joined(groups: Sequence[Group], size: int) -> list[Group]:
    """Return the groups with one more batch size, none of them with another micro-batch or `per_tick` than before.

    The size joins the group that suits it best, or has one of its own.

    Raises:
        ValueError: no group takes it, and every micro-batch that divides it is that of another group.
    """
    if any(size in group.batch_sizes for group in groups):
        return list(groups)
    taking = [
        group
        for group in groups
        if size % (group.micro_batch * group.per_tick) == 0 and size // group.micro_batch <= MOST_PARTS
    ]
    if taking:
        best = max(taking, key=lambda group: (2 * group.micro_batch <= size, group.micro_batch))
        more = Group(best.micro_batch, tuple(sorted((*best.batch_sizes, size))))
        return [more if group is best else group for group in groups]
    used = {group.micro_batch for group in groups}
    wanted = [common_micro_batch([size]), *reversed(legal_micro_batches([size])), size]
    own = next((micro_batch for micro_batch in wanted if micro_batch not in used), None)
    if own is None:
        raise ValueError(f"batch size {size} suits no stack of the study, whose micro-batches are {sorted(used)}")
    return [*groups, Group(own, (size,))]


def common_micro_batch(batch_sizes: Sequence[int]) -> int:
    """Return the micro-batch of sizes that form one group."""
    common, smallest = gcd(*batch_sizes), min(batch_sizes)
    quarter = _split(common, smallest, least=4)
    return quarter if quarter >= FULL and 4 * quarter <= smallest else _split(common, smallest)


def _split(common: int, smallest: int, least: int = 2) -> int:
    """Return the largest divisor of `common` that splits `smallest` into `least` parts or more.

    `smallest` is a multiple of `common`. Where `common` has no divisor for fewer than `MOST_PARTS`, it is returned.
    """
    fewest = -(-least * common // smallest)
    return next((common // parts for parts in range(fewest, MOST_PARTS + 1) if common % parts == 0), common)


def legal_micro_batches(batch_sizes: Sequence[int]) -> list[int]:
    """Return the common divisors that split the smallest batch into two or more parts, ascending; [1] if none does."""
    common, most = gcd(*batch_sizes), min(batch_sizes) // 2
    lower = [size for size in range(1, isqrt(common) + 1) if common % size == 0]
    return sorted({size for low in lower for size in (low, common // low) if size <= most}) or [1]
