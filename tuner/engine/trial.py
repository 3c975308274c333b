"""What the engine is asked to train, and the events that it returns. Plain values."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from tuner.errors import Fault, InvalidInput
from tuner.noise.sums import NoiseSums
from tuner.study.hyperparameter import Scalar


@dataclass(frozen=True)
class TrialSpec:
    """One trial.

    `params` is the whole configuration: `optimizer`, its hyperparameters, `batch_size` B (a multiple of the stack's
    micro-batch), and optionally `schedule` with its parameters. `examples` is the training budget: floor(examples / B)
    steps are made. `rungs` are numbers of examples at which to evaluate; the end is always evaluated.
    """

    key: Hashable
    params: Mapping[str, Scalar]
    seed: int
    examples: int
    rungs: tuple[int, ...] = ()
    report_every: int = 1000
    divergence_factor: float = 10.0
    metric: str | None = None
    """What the trial is judged by; a task that does not report it is noticed before anything is trained."""

    @property
    def batch_size(self) -> int:
        """B in examples; raises `InvalidInput` unless it is a positive integer."""
        value = self.params.get("batch_size")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidInput([Fault("batch_size", f"is {value!r}; allowed is an integer of at least 1")])
        return value

    @property
    def total_steps(self) -> int:
        """Updates that the budget allows."""
        return self.examples // self.batch_size

    def evaluation_steps(self) -> list[int]:
        """Steps after which to evaluate: the first boundary at or after each rung, and the last step."""
        batch_size, total = self.batch_size, self.total_steps
        at_rungs = {max(1, -(-rung // batch_size)) for rung in self.rungs}
        return sorted({step for step in at_rungs if step < total} | {total})


@dataclass(frozen=True)
class Row:
    """A row of a trial's curve: metrics at `step`, and the noise sums of the steps since the last row."""

    key: Hashable
    step: int
    examples: int
    elapsed_s: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    noise: NoiseSums | None = None
    ticks: int = 0
    """Ticks of the stack since the trial entered it."""
    computed: float = 0.0
    """Slot-ticks computed for it: its own, and its share of the slots that were empty."""


@dataclass(frozen=True)
class Ended:
    """The end of a trial. `infeasible` says why the configuration itself cannot work."""

    key: Hashable
    outcome: Literal["finished", "error"]
    step: int
    examples: int
    infeasible: Literal["diverged", "oom", "batch_exceeds_budget"] | None = None
    error: str | None = None
    weights: Mapping[str, Tensor] | None = field(default=None, compare=False, repr=False)
    """Parameters and buffers at the end of a feasible trial, where the stack keeps them (`Stack.keep_weights`)."""


Event = Row | Ended
