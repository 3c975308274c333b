"""What every schedule must satisfy, over the whole catalogue, and agreement with torch.optim.lr_scheduler."""

import math

import pytest
import torch
from torch.optim import lr_scheduler

from tuner import schedules
from tuner.errors import InvalidInput

NAMES = list(schedules.catalogue())
DECAYING = [name for name in NAMES if name != "constant"]


def sequence(name, total, **parameters):
    return [schedules.multiplier(name, t, total, **parameters) for t in range(total)]


def torch_sequence(total, warm, make_decay):
    """Run torch's own schedulers: LinearLR to the peak in `warm` updates, then the decay."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    parts = [make_decay(optimizer)]
    if warm > 0:
        rise = lr_scheduler.LinearLR(optimizer, start_factor=1 / warm, end_factor=1.0, total_iters=warm - 1)
        parts.insert(0, rise)
    scheduler = parts[0] if len(parts) == 1 else lr_scheduler.SequentialLR(optimizer, parts, milestones=[warm])
    factors = []
    for _ in range(total):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.parametrize("warm", [0, 5])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_cosine_equals_torchs(warm, floor):
    expected = torch_sequence(40, warm, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=40 - warm, eta_min=floor))
    assert sequence("cosine", 40, warmup=warm / 40, floor=floor) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("warm", [0, 5])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_linear_equals_torchs(warm, floor):
    expected = torch_sequence(
        40, warm, lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=floor, total_iters=40 - warm)
    )
    assert sequence("linear", 40, warmup=warm / 40, floor=floor) == pytest.approx(expected, abs=1e-12)


def test_linear_without_a_floor_equals_torchs_polynomial():
    expected = torch_sequence(40, 0, lambda o: lr_scheduler.PolynomialLR(o, total_iters=40, power=1.0))
    assert sequence("linear", 40, warmup=0.0) == pytest.approx(expected, abs=1e-12)


def test_wsd_by_hand():
    factors = sequence("wsd", 20, warmup=0.2, cooldown=0.25, floor=0.5)
    assert factors == pytest.approx([0.25, 0.5, 0.75, *[1.0] * 13, 0.9, 0.8, 0.7, 0.6], abs=1e-15)


def test_constant_by_hand():
    assert sequence("constant", 5) == [1.0] * 5
    assert sequence("constant", 5, warmup=0.8) == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("total", [1, 2, 3, 97])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 1.0])
def test_factors_are_positive_rise_once_and_fall_once(name, total, warmup):
    factors = sequence(name, total, warmup=warmup)
    assert all(0 < factor <= 1 for factor in factors)
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


@pytest.mark.parametrize("name", DECAYING)
def test_the_floor_holds_from_the_end_on(name):
    for t in (50, 51, 1e9):
        assert schedules.multiplier(name, t, 50, floor=0.125) == 0.125
        assert schedules.multiplier(name, t, 50) == 0.0
        # Even where the decay is shorter than one update.
        short = {"cooldown": 0.001} if name == "wsd" else {"warmup": 0.999}
        assert schedules.multiplier(name, t, 50, floor=0.125, **short) == pytest.approx(0.125)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_equals_lone_trials_bit_for_bit(name):
    generator = torch.Generator().manual_seed(1)
    total = torch.randint(1, 500, (64,), generator=generator).double()
    t = (torch.rand(64, generator=generator, dtype=torch.float64) * total).floor()
    drawn = {
        p.name: torch.rand(64, generator=generator, dtype=torch.float64) for p in schedules.catalogue()[name].parameters
    }
    together = schedules.multiplier(name, t, total, **drawn)
    assert together.shape == (64,)
    assert together.dtype == torch.float64
    for size in range(1, 65):
        part = schedules.multiplier(name, t[-size:], total[-size:], **{k: v[-size:] for k, v in drawn.items()})
        assert torch.equal(part, together[-size:])
    for row in range(64):
        alone = schedules.multiplier(
            name, float(t[row]), float(total[row]), **{key: float(value[row]) for key, value in drawn.items()}
        )
        assert isinstance(alone, float)
        assert alone == float(together[row])


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_for_one_argument_is_enough(name):
    factors = schedules.multiplier(name, torch.arange(10), 10)
    assert factors.tolist() == sequence(name, 10)


@pytest.mark.parametrize("name", NAMES)
def test_search_ranges_are_legal(name):
    for parameter in schedules.catalogue()[name].parameters:
        assert parameter.fault(parameter.default) is None
        assert parameter.search is not None
        assert parameter.search.source
        assert parameter.fault(parameter.search.min) is None
        assert parameter.fault(parameter.search.max) is None


def test_every_fault_is_named():
    with pytest.raises(InvalidInput, match=r"'cosin' is not known; known are constant, linear, cosine, wsd"):
        schedules.multiplier("cosin", 0, 10)
    with pytest.raises(InvalidInput) as caught:
        schedules.multiplier("cosine", -1, 0, floor=2.0, warmup=math.nan, cooldown=0.1)
    assert [fault.field for fault in caught.value.faults] == ["t", "total", "floor", "warmup", "cooldown"]
    assert "it has warmup, floor" in str(caught.value)
