"""Which courses of a loss count as diverged: the verdict is on whole steps, at any scale and sign of the loss."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from engine_cases import spec

from tuner.engine.divergence import PATIENCE, Divergence
from tuner.engine.ledger import Entries
from tuner.engine.progress import Progress


def end_of(losses: Sequence[float], factor: float = 20.0) -> int | None:
    """Return after how many steps a trial with these step means has diverged."""
    judge = Divergence()
    return next((step for step, loss in enumerate(losses, 1) if judge.judge(float(loss), factor)), None)


def progress_of(losses: Sequence[float], micro_batch: int, batch_size: int = 16) -> Progress:
    """A trial that has seen one loss per example, in micro-batches."""
    progress = Progress(spec(1, "sgd", batch_size=batch_size, divergence_factor=20.0, examples=10**6), micro_batch)
    ticks = np.asarray(losses).reshape(-1, micro_batch).mean(1)
    due = [(tick + 1) % (batch_size // micro_batch) == 0 for tick in range(len(ticks))]
    progress.absorb(Entries(ticks.tolist(), [0.0] * len(ticks), [0.0] * len(ticks), due))
    return progress


NOISE = np.random.default_rng(0)
HEALTHY = {
    "falls": 2.3 / np.arange(1, 200),
    "starts near zero and falls below it": 1e-3 - np.linspace(0, 3, 200) + 0.3 * NOISE.standard_normal(200),
    "negative and noisy": -100 + 30 * NOISE.standard_normal(200),
    "around zero": np.r_[1e-4, NOISE.standard_normal(200)],
    "from zero up": np.r_[0.0, 0.5 + 0.1 * NOISE.standard_normal(200)],
    "an odd step now and then": np.where(np.arange(300) % 40 == 39, 1e4, 1 + 0.1 * NOISE.standard_normal(300)),
    "a catapult": np.r_[np.full(20, 2.3), [300, 900, 200, 80, 30], np.full(50, 1.0)],
    "squares of single examples": NOISE.standard_normal(3000) ** 2,
    "constant": np.full(50, -4.0),
}
DIVERGED = {
    "grows for ever": 2.3 * 1.5 ** np.arange(100),
    "jumps and stays": np.r_[2.3, np.full(60, 1e3)],
    "negative, then grows": np.r_[-100 + NOISE.standard_normal(100), -100 + 10 * 2.0 ** np.arange(40)],
    "after falling": np.r_[np.linspace(2.3, 0.1, 50), np.full(20, 200.0)],
}


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_courses_go_on(name: str, scale: float) -> None:
    assert end_of(scale * HEALTHY[name]) is None


@pytest.mark.parametrize("scale", [1e-100, 1.0, 1e100])
@pytest.mark.parametrize("name", DIVERGED)
def test_losses_that_leave_for_good_end_the_trial(name: str, scale: float) -> None:
    course = DIVERGED[name]
    end = end_of(scale * course)
    assert end is not None and end == end_of(course)


def test_the_ceiling_is_the_factor_times_the_first_loss_above_the_best() -> None:
    below, above = (end_of([2.0, 1.0, *[1.0 + 3 * 2.0 + margin] * PATIENCE], 3.0) for margin in (-1e-9, 1e-9))
    assert (below, above) == (None, 2 + PATIENCE)


def test_one_odd_micro_batch_says_nothing() -> None:
    """One micro-batch of 12 in a step whose mean is 0.58."""
    calm = [0.05] * 16
    odd = [0.0] * 12 + [9.28 / 4] * 4
    assert max(np.reshape(odd, (-1, 4)).mean(1)) > 20 * 0.05
    assert not progress_of(calm + odd + calm * 10, 4).diverged


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 8, 16])
def test_the_verdict_does_not_depend_on_the_micro_batch(micro_batch: int) -> None:
    rng = np.random.default_rng(1)
    course = np.r_[np.full(20, 1.0), np.geomspace(1, 1e6, 40)].repeat(16) * rng.exponential(size=60 * 16)
    found = progress_of(course, micro_batch)
    assert found.diverged and found.step == progress_of(course, 16).step


@pytest.mark.parametrize("worst", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_the_trial_in_its_tick(worst: float) -> None:
    losses = [1.0] * 35 + [worst] + [1.0] * 3
    progress = Progress(spec(1, "sgd", batch_size=16), 1)
    progress.absorb(Entries(losses[:35], [0.0] * 35, [0.0] * 35, [tick % 16 == 15 for tick in range(35)]))
    assert not progress.diverged and progress.step == 2
    progress.absorb(Entries(losses[35:], [0.0] * 4, [0.0] * 4, [False] * 4))
    assert progress.diverged and progress.step == 2


def test_the_verdict_survives_a_checkpoint_and_copies_are_independent() -> None:
    course = [1.0] * 32 + [500.0] * 16 * (PATIENCE - 1)
    first = progress_of(course, 4)
    copy = first.resumed_at(0.0)
    restored = Progress.of_state(first.spec, 4, 1, first.state())
    last = Entries([500.0] * 4, [0.0] * 4, [0.0] * 4, [False] * 3 + [True])
    copy.absorb(last)
    assert copy.diverged and not first.diverged
    restored.absorb(last)
    assert restored.diverged and restored.step == copy.step == 2 + PATIENCE - 1
