"""What has been measured of one trial since its last report row, and whether it has diverged.

A trial diverges as soon as a loss is not finite, or when the mean losses of its steps stay far above what they were
(`divergence.py`). What is counted here depends on the trial's own ticks alone, not on when the ledger was read.
"""

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from tuner.engine.divergence import Divergence
from tuner.engine.ledger import Entries
from tuner.engine.trial import Row, TrialSpec
from tuner.noise.sums import Accumulated, NoiseSums

MOST_NORM = 1e140
"""Squared gradient norms from here on are not counted as noise: their squares would be infinite."""

_NOT_STATE = ("spec", "micro_batch", "per_tick", "started", "slot_ticks")
_PARTS = {"_noise": NoiseSums, "_divergence": Divergence}


@dataclass
class Progress:
    """A trial's running sums. `step` counts the updates whose ledger entries have been read."""

    spec: TrialSpec
    micro_batch: int
    per_tick: int = 1
    """Micro-batches in a tick."""
    started: float = field(default_factory=time.monotonic)
    step: int = 0
    diverged: bool = False
    slot_ticks: tuple[int, float] = (0, 0.0)
    """Ticks and computed slot-ticks of this stay in a stack (see `Row`)."""
    evaluations: list[int] = field(default_factory=list)
    """Steps after which to evaluate, the next one first."""
    _divergence: Divergence = field(default_factory=Divergence)
    _loss_sum: float = 0.0
    """Of the steps since the last row, `_loss_count` ticks."""
    _loss_count: int = 0
    _step_loss_sum: float = 0.0
    """Of the present step, `_tick_count` ticks; so is `_square_sum`."""
    _square_sum: float = 0.0
    _tick_count: int = 0
    _noise: NoiseSums = field(default_factory=NoiseSums)

    def __post_init__(self) -> None:
        self.batch_size = self.spec.batch_size
        self.evaluations = self.evaluations or self.spec.evaluation_steps()

    @property
    def examples(self) -> int:
        """Examples of the completed steps."""
        return self.step * self.batch_size

    @property
    def finished(self) -> bool:
        """Whether the budget is used up."""
        return self.step >= self.spec.total_steps

    def absorb(self, entries: Entries) -> list[Row]:
        """Count ticks; return the rows that they complete. The row of an evaluation step is left open for `row`."""
        rows = []
        noise = Accumulated(self._noise)
        for loss, square, mean, due in zip(entries.losses, entries.squares, entries.means, entries.due, strict=True):
            self._step_loss_sum += loss
            self._square_sum += square
            self._tick_count += 1
            if not math.isfinite(self._step_loss_sum):
                self.diverged = True
            elif due:
                self._finish_step(mean, noise)
            if self.diverged:
                break
            if due and self._reportable():
                self._noise = noise.sums()
                rows.append(self.row({}))
                noise = Accumulated(self._noise)
        self._noise = noise.sums()
        return rows

    def row(self, metrics: dict[str, float]) -> Row:
        """Close the present row: these metrics, the mean training loss and the noise since the last one."""
        loss = {"train_loss": self._loss_sum / self._loss_count} if self._loss_count else {}
        noise = self._noise if self._noise.n else None
        self._loss_sum, self._loss_count, self._noise = 0.0, 0, NoiseSums()
        elapsed_s = time.monotonic() - self.started
        return Row(self.spec.key, self.step, self.examples, elapsed_s, loss | metrics, noise, *self.slot_ticks)

    def resumed_at(self, started: float) -> "Progress":
        """Return an independent copy whose clock began at `started` (monotonic seconds)."""
        other = copy.copy(self)
        other.started = started
        other.evaluations = list(self.evaluations)
        other._divergence = replace(self._divergence)
        return other

    def state(self) -> dict[str, Any]:
        """Return everything but the trial's own description and the clock, as values fit for JSON."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _NOT_STATE}
        parts = {"_noise": asdict(self._noise), "_divergence": asdict(self._divergence)}
        return plain | parts | {"evaluations": list(self.evaluations)}

    @classmethod
    def of_state(cls, spec: TrialSpec, micro_batch: int, per_tick: int, state: Mapping[str, Any]) -> "Progress":
        """Rebuild the progress that `state` described. Raises `KeyError` or `TypeError` when something is missing."""
        progress = cls(spec, micro_batch, per_tick)
        for name in progress.state():
            kind = _PARTS.get(name)
            setattr(progress, name, state[name] if kind is None else kind(**state[name]))
        return progress

    def _finish_step(self, mean: float, noise: Accumulated) -> None:
        """Close a step, unless it shows that the trial has diverged."""
        count, micro_batches = self._tick_count, self._tick_count * self.per_tick
        self._loss_sum += self._step_loss_sum
        self._loss_count += count
        judged = self._divergence.judge(self._step_loss_sum / count, self.spec.divergence_factor)
        self.diverged = judged or not math.isfinite(self._loss_sum)
        if self.diverged:
            return
        self.step += 1
        if micro_batches >= 2 and self._square_sum < MOST_NORM and mean < MOST_NORM:  # not true of NaN: not measured
            noise.add_step(self._square_sum / count, mean, self.micro_batch, micro_batches)
        self._step_loss_sum, self._square_sum, self._tick_count = 0.0, 0.0, 0

    def _reportable(self) -> bool:
        if self.evaluations and self.step >= self.evaluations[0]:
            return False
        every, examples = self.spec.report_every, self.step * self.batch_size
        return examples // every > (examples - self.batch_size) // every
