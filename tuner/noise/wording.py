"""The texts of the advice: the meaning of a grade, what is not claimed, which experiment would help most.

Invariant: no sentence names a batch size without its interval.
"""

import math
from collections.abc import Sequence

from tuner.noise.estimator import two_digits
from tuner.noise.evidence import FEWEST_ROWS, Evidence
from tuner.noise.learning_rate import scaling_of
from tuner.noise.measurement import Measurement
from tuner.noise.prior import Prior
from tuner.noise.temperature import FEWEST_TEMPERATURES
from tuner.noise.throughput import Throughput

DEFINITION = (
    "Critical batch size means examples_min / steps_min: a run with it takes twice the minimum steps and examples. "
    "The noise scale is a different quantity, and other definitions of the critical batch differ up to fivefold."
)
UNIT = "All batch sizes are in examples per optimizer step."
MOMENTUM = (
    "The noise scale does not reflect momentum or preconditioning (e.g. Adam). In a solvable model they moved the "
    "critical batch size up 17 to 118 times while the noise scale moved far less: treat the upper end as soft."
)
NOT_CLAIMED = (
    "Not claimed: that this batch size generalises best, that it carries over to another optimizer, learning rate or "
    "schedule, or that a larger batch is faster if no step time was measured."
)
BATCH_NORM = (
    "Each example's gradient depends on the others in its micro-batch (batch normalisation, or a loss that is not a "
    "mean over examples), so the noise scale holds for micro-batches of this size only: a script whose batch is larger "
    "trains another function, with another noise."
)
NOT_SEPARABLE = (
    "Not measured: the loss depends on which examples share a batch (batch normalisation, or a loss that is not a mean "
    "over examples), so trials were trained in whole batches, as your own script would. The noise of a part of such a "
    "batch is that of another function."
)
MEASURE_WHOLE = (
    "To measure it, either train in parts: `micro_batch: 8` in the study document normalises over 8 examples and "
    "measures the noise of that. Or, in a loop of your own, let each step accumulate four or more whole batches at the "
    "same weights, with `tuner.noise.Meter(micro_batch=<examples per batch>)`."
)
HEAVY = "One twentieth of the run holds more than 30 % of the noise: the intervals may be too narrow."
RARE = (
    "The noise comes in few, large events. Larger ones may not have been seen yet, so the measured noise may be too "
    "small, and no upper end is claimed."
)
UNTIMED = (
    "No step times were given, so there is no advice on the fastest batch size: that depends on the hardware that will "
    "train. `tuner advice STUDY --measure` times steps on the machine where it runs."
)
NO_GRADE = "No grade: there is not enough data for advice, and a number without an interval would be misleading."
NO_EXPERIMENT = "None: without noise in the gradients, larger batches save no steps."


def headline(evidence: Evidence, critical: float | None, low: float, high: float, confidence: float, grade: str) -> str:
    """Describe the critical batch size in one sentence."""
    level = f"{confidence:.0%}"
    if high == math.inf:
        amount = f"at least {two_digits(low)} examples ({level}, no upper bound)"
    elif high <= 1:
        amount = f"below one example ({level})"
    elif critical is None:
        amount = f"{two_digits(low)} to {two_digits(high)} examples ({level})"
    else:
        amount = f"about {two_digits(critical)} examples, {two_digits(low)} to {two_digits(high)} ({level})"
    return f"Critical batch size {amount}, from the gradient noise of {_name(evidence.trial)} (grade {grade})."


def not_separable(measurements: Sequence[Measurement]) -> bool:
    """Whether completed trials of a model that depends on the batch measured no noise at all."""
    completed = [m for m in measurements if m.ranked]
    return bool(completed) and not any(row.n for m in completed for row in m.rows)


def not_enough(measurements: Sequence[Measurement], family: str | None) -> str:
    """Explain why there is no advice."""
    of = f" of {family}" if family else ""
    if not any(m.ranked for m in measurements):
        return f"Not enough data: no trial{of} has completed with a finite value."
    if all(m.batch_size > m.largest_batch for m in measurements if m.ranked):
        return f"Not enough data: every completed trial{of} used a batch above a quarter of its training set."
    return (
        f"Not enough data: no completed trial{of} has {FEWEST_ROWS} or more rows of noise sums. A trial measures noise "
        "when its batch is at least two micro-batches."
    )


def nothing_told(evidence: Evidence, prior: Prior) -> str:
    """Explain that the noise of a trial bounds nothing."""
    if prior.one_sided:
        return (
            f"Not enough data: the noise of {_name(evidence.trial)} only tells that the critical batch size is above a "
            "part of an example, which is no bound."
        )
    return f"Not enough data: the noise of {_name(evidence.trial)} agrees with any critical batch size."


def grade_text(evidence: Evidence, prior: Prior, confidence: float) -> str:
    """Explain the grade of the evidence."""
    factor = two_digits(10 ** prior.half_width(confidence))
    soft = (
        "For language models the critical batch size is known to be far above the noise scale, so only a lower bound "
        "is given."
        if prior.one_sided
        else f"The ratio of critical batch size to noise scale varied by a factor of {factor} in either direction over "
        f"{prior.tasks} published tasks."
    )
    fit = evidence.temperature
    if fit is None:
        return (
            f"Grade D: the critical batch size is inferred from the gradient noise of one trial. {soft} "
            "Good enough to choose a batch size on fixed hardware, too rough a basis for buying hardware."
        )
    slope = f"{fit.slope:.2f} ({fit.slope_low:.2f} to {fit.slope_high:.2f})"
    found = ""
    if fit.slope_high < 0:
        found = ", against the theory's s of about 1, so something other than the learning rate affects the noise here"
    elif fit.slope_low <= 0:
        found = ", which is indistinguishable from no dependence"
    return (
        f"Grade C: the noise is read at the tuned learning rate from a line through {fit.trials} trials, fitted as "
        f"proportional to 1 / (lr / batch size)^s with s = {slope}{found}. {soft}"
    )


def notes(
    evidence: Evidence, *, throughput: Throughput | None, batch_norm: bool, limit: int | None, cut: bool
) -> tuple[str, ...]:
    """Collect the notes a reader needs besides the ranges; the first four are always included."""
    found = [DEFINITION, UNIT, MOMENTUM, NOT_CLAIMED]
    if limit is not None:
        ending = "; the ranges above are capped there." if cut else "."
        found.append(f"No batch above a quarter of the training set is recommended: at most {limit} examples{ending}")
    found.append(UNTIMED if throughput is None else _timed(throughput))
    if batch_norm:
        found.append(BATCH_NORM)
    if evidence.noise_scale.heavy_tailed:
        found.append(RARE if evidence.predicted.rare else HEAVY)
    if evidence.overtaken:
        found.append(f"A better trial measured too little noise; this is based on {_name(evidence.trial)}.")
    if evidence.learning_rates == 1:
        found.append("Only one learning rate was tried, and the noise scale depends on it.")
    elif evidence.edge:
        found.append("The best learning rate is at the edge of those tried, and the noise scale depends on it.")
    if scaling_of(evidence.trial.family) == "adaptive":
        found.append("Noise is measured on the plain gradient, not in the metric of the optimizer.")
        found.append("At k times the batch size, beta2 to the power k keeps its memory in examples; keep beta1.")
    return tuple(found)


def _timed(throughput: Throughput) -> str:
    """Describe the step times behind the fastest range."""
    low, high = throughput.interval
    if low <= 0 and high == math.inf:
        return (
            "The given step times are too far from a straight line over the batch size to tell a step's overhead, so "
            "there is no advice on the fastest batch size."
        )
    if high <= 0:
        amount = "none"
    elif two_digits(low) == two_digits(high):
        amount = f"as much time as {two_digits(low)} examples"
    elif high == math.inf:
        amount = f"as much time as at least {two_digits(low)} examples"
    elif low <= 0:
        amount = f"as much time as at most {two_digits(high)} examples"
    else:
        amount = f"as much time as {two_digits(low)} to {two_digits(high)} examples"
    text = f"The fastest range follows from the given step times: the overhead of a step is {amount}"
    if throughput.largest is not None:
        text += f"; above a batch of {throughput.largest:,.0f}, the largest timed, that is extrapolated"
    return f"{text}. Whether a batch fits in memory was not looked at."


def next_experiment(evidence: Evidence, prior: Prior, confidence: float, balanced: tuple[float, float]) -> str:
    """Name the experiment that would narrow the interval most."""
    trial, predicted = evidence.trial, evidence.predicted
    low, _, high = evidence.base
    if evidence.temperature is None and not predicted.bounded:
        larger = two_digits(max(2.0 * trial.batch_size, 2.0 ** round(math.log2(max(predicted.low, 1)))))
        return (
            f"The noise has no upper bound yet. Repeat {_name(trial)} for longer, or at a larger batch (about {larger} "
            "examples): a step near the noise scale is the most informative."
        )
    half = prior.half_width(confidence)
    if evidence.learning_rates < FEWEST_TEMPERATURES or evidence.edge:
        where = "on both sides of the best one" if evidence.edge and evidence.learning_rates > 1 else "a factor 3 apart"
        return (
            f"Try more learning rates with {trial.family} ({evidence.learning_rates} so far), {where}: at least "
            f"{FEWEST_TEMPERATURES}, the best one not at the edge. The noise scale counts only at a tuned rate."
        )
    if low <= 0 or math.log10(high / low) / 2 > half:
        return (
            f"The noise itself is the larger uncertainty: train {_name(trial)}'s configuration for more steps, or give "
            "each step more micro-batches."
        )
    away = 4 * trial.batch_size if balanced[1] > 2 * trial.batch_size else max(trial.batch_size // 4, 1)
    return (
        "The factor between noise scale and critical batch size is the larger uncertainty, and only other batch sizes "
        f"measure it: tune at least 4 learning rates at {away} examples and at one more batch size, and fit the steps "
        "that each needs to a common target with fit_tradeoff."
    )


def nothing_to_do_but_measure() -> str:
    """Name the first experiment, when nothing has been measured."""
    return (
        "Complete one trial whose batch is at least two, preferably four, micro-batches and at most a quarter of the "
        f"training set, with {FEWEST_ROWS} or more report rows."
    )


def _name(trial: Measurement) -> str:
    label = "the best trial" if trial.number is None else f"trial {trial.number}"
    return f"{label} ({trial.family}, lr {trial.lr:g}, batch {trial.batch_size})"
