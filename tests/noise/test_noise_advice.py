"""Advice: grades, ranges, refusals and wording."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from noise_simulation import measured, rows_of

from tuner.noise import Advice, Measurement, NoiseSums, Throughput, advise, critical_from_run


def sweep(noise: float = 100.0) -> list[Measurement]:
    """Five learning rates; the noise scale falls as the inverse of the learning rate, the middle one is best."""
    rates = [0.01, 0.03, 0.1, 0.3, 1.0]
    values = [0.9, 0.7, 0.5, 0.6, 0.8]
    return [
        measured(noise_scale=noise * 0.1 / lr, lr=lr, value=value, number=i, seed=60 + i, steps=300)
        for i, (lr, value) in enumerate(zip(rates, values, strict=True))
    ]


def is_power_of_two(value: float) -> bool:
    return value == math.inf or (value >= 1 and math.log2(value).is_integer())


def check_everywhere(advice: Advice) -> None:
    """What holds for any advice with a grade."""
    assert advice.interval is not None and advice.cheapest is not None and advice.balanced is not None
    for ends in (advice.cheapest, advice.balanced, advice.fastest):
        assert ends is None or (ends[0] <= ends[1] and all(map(is_power_of_two, ends)))
    assert advice.cheapest[0] <= advice.balanced[0] and advice.cheapest[1] <= advice.balanced[1]
    text = " ".join(advice.notes)
    assert "momentum" in text and "Not claimed" in text and "in examples per optimizer step" in text
    assert advice.grade_text.startswith(f"Grade {advice.grade}")
    assert advice.next_experiment and "(grade" in advice.headline and "95%" in advice.headline
    json.dumps(asdict(advice))
    assert advice.lr is not None
    for size, low, high in advice.lr.table:
        assert (low, high) == advice.lr.at(size) and low <= high
    assert [row[0] for row in advice.lr.table] == sorted({row[0] for row in advice.lr.table})


def test_grade_d_from_one_trial() -> None:
    trial = measured()
    advice = advise([trial])
    check_everywhere(advice)
    assert (advice.grade, advice.family, advice.trial, advice.batch_size) == ("D", "sgd", 7, 64)
    predicted = critical_from_run(64, trial.rows)
    assert predicted is not None and advice.predicted == predicted
    assert advice.critical_batch == pytest.approx(predicted.critical_batch * 10**-0.48)
    low, high = advice.interval
    # The published factor of 8.2 either way, and a little more for the noise itself.
    assert 8.2 < advice.critical_batch / low < 9.5 and 8.2 < high / advice.critical_batch < 9.5
    assert advice.regret == pytest.approx(0.31, abs=0.03)
    assert advice.noise_scale is not None and advice.noise_scale.low < 400 < advice.noise_scale.high
    assert advice.noise_scale.effective_rank == pytest.approx(100, rel=0.3)
    assert advice.fastest is None and any("step time" in note for note in advice.notes)
    assert "learning rates" in advice.next_experiment
    assert advice.temperature is None and advice.dataset_limit is None
    assert "varied by a factor of 8.2 in either direction over 5" in advice.grade_text
    assert "trial 7 (sgd, lr 0.1, batch 64)" in advice.headline
    assert any(note.startswith("Only one learning rate") for note in advice.notes)


def test_the_three_purposes() -> None:
    advice = advise([measured(noise_scale=400)], throughput=Throughput(overhead_s=0.01, seconds_per_example=1e-5))
    check_everywhere(advice)
    low, high = advice.interval
    half_batch = 1000
    for ends, expected in (
        (advice.cheapest, (0.1 * low, 0.1 * high)),
        (advice.balanced, (low, high)),
        (advice.fastest, (math.sqrt(low * half_batch), math.sqrt(high * half_batch))),
    ):
        for end, value in zip(ends, expected, strict=True):
            assert abs(math.log2(end) - math.log2(max(value, 1))) <= 0.5
    instant = advise([measured()], throughput=Throughput(0, 1e-5))
    assert instant.fastest == (1, 1), "without overhead, a larger batch is never faster"


def test_grade_c_reads_the_noise_at_the_tuned_learning_rate() -> None:
    advice = advise(sweep())
    check_everywhere(advice)
    assert advice.grade == "C" and advice.trial == 2
    fit = advice.temperature
    assert fit is not None and fit.trials == 5
    assert fit.slope == pytest.approx(1, abs=0.1)
    assert fit.temperature == pytest.approx(0.1 / 64)
    assert fit.low < 100 < fit.high
    assert advice.critical_batch == pytest.approx(fit.value * 10**-0.48)
    assert "5 trials" in advice.grade_text
    assert "fit_tradeoff" in advice.next_experiment and "256 examples" in advice.next_experiment


def test_grade_c_needs_three_learning_rates_and_the_best_inside() -> None:
    trials = sweep()
    two = advise([trials[1], trials[2]])
    assert two.grade == "D" and "(2 so far)" in two.next_experiment
    edge = advise([replace(trial, value=1 - i / 10) for i, trial in enumerate(trials)])
    assert edge.grade == "D" and edge.trial == 4
    assert any("at the edge" in note for note in edge.notes) and "both sides" in edge.next_experiment
    diverged = replace(trials[4], lr=3.0, completed=False, value=None, rows=())
    bracketed = advise([*(replace(trial, value=1 - i / 10) for i, trial in enumerate(trials)), diverged])
    assert bracketed.grade == "C", "a diverged trial shows that the best is not at the upper edge"


def test_replicates_of_one_learning_rate_are_not_a_line() -> None:
    advice = advise([measured(seed=i, value=0.5 + 0.01 * i, number=i) for i in range(5)])
    assert advice.grade == "D" and advice.temperature is None


def test_a_slope_that_cannot_be_told_from_none_is_said() -> None:
    flat = [
        replace(trial, lr=lr) for trial, lr in zip([measured(seed=i) for i in range(3)], (0.01, 0.1, 1), strict=True)
    ]
    flat[1] = replace(flat[1], value=0.1)
    advice = advise(flat)
    assert advice.grade == "C" and "indistinguishable from no dependence" in advice.grade_text


def test_trials_without_an_upper_bound_are_in_the_line() -> None:
    noisy = measured(noise_scale=4e8, lr=0.001, value=2.0, number=9)
    assert not critical_from_run(64, noisy.rows).bounded
    advice = advise([*sweep(), noisy])
    assert advice.grade == "C" and advice.temperature.trials == 6


def test_a_line_that_says_less_than_the_trial_itself_is_not_used() -> None:
    """Three learning rates leave one degree of freedom."""
    rates = ((0.01, 10_000, 0.9), (0.1, 1000, 0.5), (1.0, 100, 0.8))
    trials = [measured(noise_scale=scale, lr=lr, value=value, steps=128) for lr, scale, value in rates]
    assert critical_from_run(64, trials[1].rows).bounded
    advice = advise(trials)
    check_everywhere(advice)
    assert advice.grade == "D" and advice.interval[1] < math.inf


def test_unbounded_noise_gives_at_least() -> None:
    advice = advise([measured(noise_scale=4e8, steps=40)])
    check_everywhere(advice)
    assert advice.grade == "D" and advice.critical_batch is None and advice.regret is None
    low, high = advice.interval
    assert low > 0 and high == math.inf and advice.balanced[1] == math.inf
    assert "at least" in advice.headline and "no upper bound" in advice.headline
    assert "no upper bound yet" in advice.next_experiment
    assert len(advice.lr.table) <= 16


@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-3])
def test_noise_of_nearly_nothing_is_below_one_example(noise: float) -> None:
    """Not "0 to 0 examples", nor "about 1.5e-10"."""
    big = np.array([1.0, 2.0, 3.0] * 10)
    small = big * (1 + noise * np.tile([0.5, 1.5], 15))
    advice = advise([replace(measured(), rows=tuple(rows_of(small, big, 8, 4)), micro_batch=8, batch_size=32)])
    check_everywhere(advice)
    assert "size below one example (95%)" in advice.headline and "e-" not in advice.headline
    assert (advice.interval, advice.balanced, advice.cheapest) == ((0, 1), (1, 1), (1, 1))
    assert advice.critical_batch is None and advice.regret is None
    assert "larger batches save no steps" in advice.next_experiment
    assert advice.noise_scale.describe() == "below one example (95%)"


def test_imprecise_noise_asks_for_more_of_it() -> None:
    scattered = zip((0.01, 0.1, 0.3, 1.0), (900.0, 40.0, 10.0, 80.0), (0.9, 0.5, 0.6, 0.8), strict=True)
    advice = advise([measured(lr=lr, noise_scale=noise, value=value) for lr, noise, value in scattered])
    check_everywhere(advice)
    assert advice.grade == "C" and "The noise itself is the larger uncertainty" in advice.next_experiment


def test_language_models_get_a_lower_bound_only() -> None:
    advice = advise([measured()], kind="language")
    check_everywhere(advice)
    assert advice.critical_batch is None and advice.interval[1] == math.inf
    assert "only a lower bound" in advice.grade_text
    unknown = advise([measured()], kind="other")
    low, high = unknown.interval
    assert high / low == pytest.approx(181**2, rel=0.1)


def test_ranges_stop_at_a_quarter_of_the_training_set() -> None:
    advice = advise([measured(dataset_size=1437)])
    check_everywhere(advice)
    assert advice.dataset_limit == 256
    assert advice.balanced[1] == 256 and advice.interval[1] > 256
    assert any("at most 256 examples; the ranges above are capped there" in note for note in advice.notes)
    whole = advise([measured(dataset_size=10**9)])
    assert any("quarter of the training set" in note and "capped" not in note for note in whole.notes)


def test_a_batch_above_a_quarter_of_the_training_set_is_no_evidence() -> None:
    advice = advise([measured(dataset_size=255)])
    assert advice.grade is None and "above a quarter of its training set" in advice.headline
    assert advise([measured(dataset_size=256)]).grade == "D"


@pytest.mark.parametrize(
    ("trials", "reason"),
    [
        ([], "no trial has completed"),
        ([measured(completed=False)], "no trial has completed with a finite value"),
        ([measured(value=None)], "no trial has completed with a finite value"),
        ([measured(value=math.nan)], "no trial has completed with a finite value"),
        ([measured(steps=2)], "no completed trial of sgd has 3 or more rows"),
        ([replace(measured(), rows=())], "no completed trial of sgd has 3 or more rows"),
        ([replace(measured(), rows=(NoiseSums(), NoiseSums(5), NoiseSums()))], "3 or more rows"),
    ],
)
def test_without_data_there_is_no_number(trials: list[Measurement], reason: str) -> None:
    advice = advise(trials)
    assert advice.grade is None
    assert advice.headline.startswith("Not enough data") and reason in advice.headline
    assert advice.next_experiment.startswith("Complete one trial")
    for name in (
        "interval",
        "critical_batch",
        "cheapest",
        "balanced",
        "fastest",
        "regret",
        "lr",
        "noise_scale",
        "trial",
    ):
        assert getattr(advice, name) is None


def test_the_best_trial_decides() -> None:
    first, second = measured(value=0.3, number=1), measured(value=0.4, number=2, seed=51)
    assert advise([second, first]).trial == 1
    assert advise([second, first], goal="maximize").trial == 2
    adam = measured(family="adamw", value=0.1, number=3)
    assert advise([second, first, adam]).family == "adamw"
    assert advise([second, first, adam], family="sgd").trial == 1
    assert advise([second, first, adam], family="lion").grade is None


def test_a_better_trial_without_noise_is_mentioned() -> None:
    advice = advise([measured(value=0.1, steps=2, number=1), measured(value=0.2, number=2)])
    assert advice.trial == 2
    assert any("better trial measured too little" in note for note in advice.notes)


def test_optimizer_and_batch_norm_notes() -> None:
    adam = advise([measured(family="adamw")], batch_norm=True)
    assert adam.lr.scaling == "adaptive"
    assert any("beta2" in note for note in adam.notes) and any("batch normalisation" in note for note in adam.notes)
    sgd = advise([measured()])
    assert not any("beta2" in note or "batch normalisation" in note for note in sgd.notes)


def test_heavy_tails_are_mentioned() -> None:
    trial = measured()
    block = [NoiseSums.of_step(small, 18.0, 16, 4) for small in (70.0, 72.0) * 5]
    advice = advise([replace(trial, rows=(*trial.rows[:95], *block, *trial.rows[95:]))])
    check_everywhere(advice)
    assert any("one twentieth" in note.lower() for note in advice.notes)
    freak = replace(trial, rows=(*trial.rows[:100], NoiseSums.of_step(1e4, 1e3, 16, 4), *trial.rows[100:]))
    rare = advise([freak])
    check_everywhere(rare)
    assert any("few, large events" in note for note in rare.notes) and rare.interval[1] == math.inf


@pytest.mark.parametrize(("s", "q"), [(0, 1), (1e-300, 1), (1e-12, 1), (1e-200, 1e-200), (1, 0), (1, 1e-320), (9, 1)])
@pytest.mark.parametrize("kind", ["classification", "language"])
def test_no_sums_are_too_extreme_and_no_bound_is_vacuous(s: float, q: float, kind: str) -> None:
    rows = tuple(NoiseSums(4, 4 * s, 4 * q, 4 * s * s, 4 * q * q, 4 * s * q) for _ in range(50))
    trials = [replace(measured(lr=lr, value=abs(math.log(lr))), rows=rows) for lr in (0.1, 0.3, 1.0, 3.0, 9.0)]
    for used in (trials[2:3], trials):
        advice = advise(used, kind=kind, throughput=Throughput(1.0, 0.0))
        assert ("at least" in advice.headline) is (advice.grade is not None and advice.interval[1] == math.inf)
        if advice.grade is None:
            assert advice.interval is None and "Not enough data" in advice.headline and advice.next_experiment
        else:
            check_everywhere(advice)
            assert advice.interval[1] < math.inf or advice.interval[0] > 1


def test_many_trials_are_thinned_evenly() -> None:
    few_rows = measured(steps=20)
    many = [replace(few_rows, lr=0.001 * 1.01**i, value=abs(i - 500), number=i) for i in range(1_000)]
    advice = advise(many)
    assert advice.grade == "C" and advice.trial == 500
    assert 200 <= advice.temperature.trials <= 256


def test_a_trial_of_one_micro_batch_per_step_is_legal_but_says_nothing() -> None:
    single = replace(measured(), rows=(), micro_batch=64)
    assert advise([single]).grade is None
    assert advise([single, measured(value=0.9)]).grade == "D"
