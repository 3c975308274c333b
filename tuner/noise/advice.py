"""Which batch size to train with: a range for each purpose, its evidence grade, and what would narrow it.

Grades here: D, the noise of one trial; C, the noise corrected to the tuned learning rate by a line through all trials,
at least three; none, not enough data. (Higher grades need trials at several tuned batch sizes: `fit_tradeoff`.)

Invariants: a batch size is always a range, in powers of two; nothing above a quarter of the training set is advised;
the learning rate for another batch size is a range too. All fields are plain numbers, tuples or strings, so they can be
written as JSON once infinite and NaN floats are encoded by name.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from tuner.errors import Fault, InvalidInput
from tuner.noise import wording
from tuner.noise.critical import CriticalBatch
from tuner.noise.estimator import Estimate
from tuner.noise.evidence import Evidence, Goal, best_family, gather
from tuner.noise.learning_rate import EXPONENTS, LearningRate, scaling_of
from tuner.noise.measurement import Measurement
from tuner.noise.prior import PRIORS, Kind
from tuner.noise.temperature import TemperatureFit
from tuner.noise.throughput import Throughput

Grade = Literal["C", "D"]
Range = tuple[float, float]
"""Two powers of two in examples, low <= high; high is infinite if there is no upper bound."""

CHEAP = 0.1
"""At this multiple of the critical batch a run needs 10 % more examples than the minimum."""
TABLE_ROWS = 16


@dataclass(frozen=True)
class Advice:
    """A recommendation with its uncertainty. Without enough data `grade` is None, and so is every number advised.

    interval: of the critical batch size, at `confidence`, (0, 1) where it is below one example; critical_batch: its
    centre, None then and when there is no upper end; cheapest: at most 10 % more examples than the fewest; balanced:
    the critical batch; fastest: least time on the hardware whose step times were given, None without them and where
    they tell nothing; regret: an upper bound on the fraction of time lost on fixed hardware by being wrong about the
    critical batch within the interval; lr: the learning rate at other batch sizes; trial, batch_size: what it rests on;
    noise_scale: that trial's, over its run; predicted: the trade-off that its noise alone predicts; temperature: the
    line of grade C; dataset_limit: largest batch advised; next_experiment: what would narrow the interval most.
    """

    grade: Grade | None
    headline: str
    grade_text: str
    next_experiment: str
    notes: tuple[str, ...]
    family: str | None
    confidence: float
    interval: tuple[float, float] | None = None
    critical_batch: float | None = None
    cheapest: Range | None = None
    balanced: Range | None = None
    fastest: Range | None = None
    regret: float | None = None
    lr: LearningRate | None = None
    trial: int | None = None
    batch_size: int | None = None
    noise_scale: Estimate | None = None
    predicted: CriticalBatch | None = None
    temperature: TemperatureFit | None = None
    dataset_limit: int | None = None


def advise(
    measurements: Sequence[Measurement],
    *,
    kind: Kind = "classification",
    goal: Goal = "minimize",
    family: str | None = None,
    throughput: Throughput | None = None,
    batch_norm: bool = False,
    confidence: float = 0.95,
) -> Advice:
    """Advise a batch size for one optimizer family: the named one, or that of the best completed trial.

    `kind` chooses the prior of critical batch / noise scale (`tuner.noise.prior`), `goal` whether low or high values
    are better, `throughput` enables `fastest`, `batch_norm` means that gradients depend on the micro-batch. Raises
    InvalidInput for an unknown kind or goal and for a confidence outside (0, 1).
    """
    _check(kind, goal, confidence)
    family = family or best_family(measurements, goal)
    mine = [m for m in measurements if m.family == family]
    evidence = gather(mine, goal, confidence) if mine else None
    if evidence is None:
        why, again = wording.not_enough(mine, family), wording.nothing_to_do_but_measure()
        if batch_norm and wording.not_separable(mine):
            why, again = wording.NOT_SEPARABLE, wording.MEASURE_WHOLE
        return Advice(None, why, wording.NO_GRADE, again, (wording.NOT_CLAIMED,), family, confidence)
    _, low, high = evidence.critical(PRIORS[kind], confidence)
    if low <= 1 and high == math.inf:
        return _nothing_told(evidence, kind, throughput, batch_norm, confidence)
    return _advice(evidence, kind, throughput, batch_norm, confidence)


def _nothing_told(
    evidence: Evidence, kind: Kind, throughput: Throughput | None, batch_norm: bool, confidence: float
) -> Advice:
    """Return the advice of noise that any batch size could have: none."""
    again = wording.next_experiment(evidence, PRIORS[kind], confidence, (1, math.inf))
    return Advice(
        None,
        wording.nothing_told(evidence, PRIORS[kind]),
        wording.NO_GRADE,
        again,
        wording.notes(evidence, throughput=throughput, batch_norm=batch_norm, limit=None, cut=False),
        evidence.trial.family,
        confidence,
        trial=evidence.trial.number,
        batch_size=evidence.trial.batch_size,
        noise_scale=evidence.noise_scale,
        predicted=evidence.predicted,
    )


def _advice(
    evidence: Evidence, kind: Kind, throughput: Throughput | None, batch_norm: bool, confidence: float
) -> Advice:
    prior, trial = PRIORS[kind], evidence.trial
    grade: Grade = "D" if evidence.temperature is None else "C"
    critical, low, high = evidence.critical(prior, confidence)
    if high <= 1:  # no batch is smaller than one example, and how much smaller it should be is no advice
        critical, low, high = None, 0.0, 1.0
    limit = None if trial.dataset_size is None else 2 ** math.floor(math.log2(max(trial.largest_batch, 1)))
    cheapest, balanced = (_range(factor * low, factor * high, limit) for factor in (CHEAP, 1.0))
    fastest = None
    if throughput is not None and throughput.interval != (0, math.inf):
        shortest, longest = throughput.interval
        fastest = _range(_fastest(low, shortest), _fastest(high, longest), limit)
    return Advice(
        grade,
        wording.headline(evidence, critical, low, high, confidence, grade),
        wording.grade_text(evidence, prior, confidence),
        wording.next_experiment(evidence, prior, confidence, balanced) if high > 1 else wording.NO_EXPERIMENT,
        wording.notes(
            evidence,
            throughput=throughput,
            batch_norm=batch_norm,
            limit=limit,
            cut=limit is not None and _power_of_two(high) > limit,
        ),
        trial.family,
        confidence,
        (low, high),
        critical,
        cheapest,
        balanced,
        fastest,
        _regret(critical, low, high),
        _learning_rate(trial, (low, high), cheapest[0], balanced[1]),
        trial.number,
        trial.batch_size,
        evidence.noise_scale,
        evidence.predicted,
        evidence.temperature,
        limit,
    )


def _check(kind: str, goal: str, confidence: float) -> None:
    faults = [
        Fault(name, f"is {value!r}; allowed is one of {', '.join(allowed)}")
        for name, value, allowed in (("kind", kind, get_args(Kind)), ("goal", goal, get_args(Goal)))
        if value not in allowed
    ]
    if not 0 < confidence < 1:
        faults.append(Fault("confidence", f"is {confidence!r}; allowed is a number in (0, 1)"))
    if faults:
        raise InvalidInput(faults)


def _range(low: float, high: float, limit: int | None) -> Range:
    return _power_of_two(low, limit), _power_of_two(high, limit)


def _power_of_two(value: float, limit: int | None = None) -> float:
    """Round to the nearest power of two in log2, at least 1 and at most `limit`."""
    if value == math.inf:
        return math.inf if limit is None else limit
    power: int = 2 ** max(round(math.log2(value)), 0) if value > 0 else 1
    return power if limit is None else min(power, limit)


def _fastest(critical: float, half_batch: float) -> float:
    """Minimise steps_min (B + critical) (B + half_batch) / B over B; with zero overhead any batch is too large."""
    return math.sqrt(critical) * math.sqrt(half_batch) if half_batch > 0 and critical > 0 else 0.0


def _regret(critical: float | None, low: float, high: float) -> float | None:
    """Bound the time lost at the fastest batch if the critical batch is off by f: (sqrt f + 1/sqrt f - 2) / 4."""
    if critical is None or low <= 0 or high == math.inf:
        return None
    root = math.sqrt(max(high / critical, critical / low))
    return (root + 1 / root - 2) / 4


def _learning_rate(trial: Measurement, critical: tuple[float, float], first: float, last: float) -> LearningRate:
    scaling = scaling_of(trial.family)
    rate = LearningRate(trial.lr, trial.batch_size, scaling, *EXPONENTS[scaling], *critical)
    start = round(math.log2(first))
    stop = start + TABLE_ROWS if last == math.inf else min(round(math.log2(last)) + 1, start + TABLE_ROWS)
    sizes = [2**power for power in range(start, stop)]
    return replace(rate, table=tuple((size, *rate.at(size)) for size in sizes))
