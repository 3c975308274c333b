"""The half batch from measured step times, and the fastest batch size that follows."""

import math

import numpy as np
import pytest
from noise_simulation import measured

from tuner.errors import InvalidInput
from tuner.noise import Throughput, advise

SIZES = (4, 16, 64, 256, 1024, 4096)


def test_a_line_is_found_exactly() -> None:
    found = Throughput.of_steps({size: 0.01 + 2e-5 * size for size in SIZES})
    assert (found.overhead_s, found.seconds_per_example) == pytest.approx((0.01, 2e-5))
    assert found.interval == pytest.approx((500, 500), rel=1e-3) and found.largest == 4096


def test_the_interval_covers_the_half_batch() -> None:
    rng, held, widths = np.random.default_rng(80), [], []
    for _ in range(100):
        times = {size: (0.01 + 2e-5 * size) * float(np.exp(0.1 * rng.standard_normal())) for size in SIZES}
        low, high = Throughput.of_steps(times).interval
        held.append(low <= 500 <= high)
        widths.append(high / max(low, 1e-9))
    assert np.mean(held) >= 0.92
    assert np.median(widths) < 4, "covering by saying nothing would be cheap"


def test_steps_that_take_as_long_at_any_size_leave_the_upper_end_open() -> None:
    low, high = Throughput.of_steps({size: 0.01 * (1 + 0.01 * (k % 2)) for k, size in enumerate(SIZES)}).interval
    assert low > 4096 and high == math.inf


def test_the_fastest_range_includes_the_uncertainty_of_the_step_times() -> None:
    exact = advise([measured()], throughput=Throughput(0.01, 2e-5))
    rough = advise([measured()], throughput=Throughput(0.01, 2e-5, 50, 5000, 1024))
    assert exact.fastest is not None and rough.fastest is not None
    assert rough.fastest[0] < exact.fastest[0] and exact.fastest[1] < rough.fastest[1]
    low, high = rough.interval or (0, 0)
    for end, value in zip(rough.fastest, (math.sqrt(50 * low), math.sqrt(5000 * high)), strict=True):
        assert abs(math.log2(end / value)) <= 0.5
    (note,) = [text for text in rough.notes if "step times" in text]
    assert "50 to 5,000 examples" in note and "above a batch of 1,024" in note


def test_step_times_that_tell_nothing_give_no_fastest_batch() -> None:
    advice = advise([measured()], throughput=Throughput.of_steps({4: 1.0, 16: 0.1, 64: 2.0}))
    assert advice.fastest is None and any("too far from a straight line" in note for note in advice.notes)


@pytest.mark.parametrize("times", [{4: 1.0, 16: 2.0}, {4: 1.0, 16: 2.0, 64: 0.0}, {4: 1.0, 16: math.inf, 0: 1.0}])
def test_refusals(times: dict[int, float]) -> None:
    with pytest.raises(InvalidInput, match="step_times"):
        Throughput.of_steps(times)
