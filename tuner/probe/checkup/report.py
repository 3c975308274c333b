"""What a check-up found out about one workload. Plain values, fit for JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tuner.study.hyperparameter import Scalar


@dataclass(frozen=True)
class RuleTried:
    """One update of one optimizer, which stands for its family; `error` is the last line of what it raised."""

    family: str
    optimizer: str
    error: str | None = None


@dataclass
class Report:
    """One workload. With a `fault`, what follows from later parts of the check-up is missing."""

    workload: str
    params: Mapping[str, Scalar]
    fault: str | None = None
    """The exception that ends every trial, with the frames of the user's own files."""
    warnings: list[str] = field(default_factory=list)
    """In plain words: what was seen, what follows from it, what helps."""
    train_examples: int = 0
    valid_examples: int = 0
    parameters: int = 0
    """Numbers that are trained."""
    roles: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """Role -> parameter -> its shape."""
    depths: dict[str, int] = field(default_factory=dict)
    """Parameter -> layers above its own, which a group's `depth_decay` counts."""
    matches: dict[str, list[str]] = field(default_factory=dict)
    """Pattern of a parameter group that was asked about -> the trained parameters that it matches."""
    micro_batch: int = 0
    whole_batches: bool = False
    """Whether the loss depends on which examples share a batch."""
    path: str = ""
    """`eager` where trials run as one program, else `loop`."""
    why_not_stacked: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    """At the initial weights of seed 0."""
    rules: list[RuleTried] = field(default_factory=list)
    alone_s: float | None = None
    """Seconds per 1,000 examples of one trial that trains alone."""
    stacked_s: float | None = None
    """The same for one of `stacked_width` trials that train together; None if that does not fit in memory."""
    stacked_width: int = 0
    memory: dict[int, int] = field(default_factory=dict)
    """Slots -> bytes of a stack of that width with AdamW, at its peak."""
