"""What every schedule must satisfy, over the whole catalogue, and agreement with torch.optim.lr_scheduler."""

import math

import pytest
import torch
from torch.optim import lr_scheduler

from tuner import optimizers, schedules
from tuner.errors import InvalidInput

INFOS = schedules.catalogue()
NAMES = list(INFOS)


def having(parameter):
    return [name for name in NAMES if any(p.name == parameter for p in INFOS[name].parameters)]


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


def test_cosine_with_equal_cycles_equals_torchs_warm_restarts():
    expected = torch_sequence(60, 0, lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=20, eta_min=0.1))
    assert sequence("cosine", 60, warmup=0.0, floor=0.1, cycles=3) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("growth", [2, 3])
def test_cosine_with_growing_cycles_equals_torchs_warm_restarts(growth):
    total = 9 * (1 + growth + growth**2)
    expected = torch_sequence(total, 0, lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=9, T_mult=growth))
    assert sequence("cosine", total, warmup=0.0, cycles=3, cycle_growth=growth) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("warm", [0, 5])
@pytest.mark.parametrize("power", [0.5, 2.0])
def test_polynomial_equals_torchs(warm, power):
    expected = torch_sequence(40, warm, lambda o: lr_scheduler.PolynomialLR(o, total_iters=40 - warm, power=power))
    assert sequence("polynomial", 40, warmup=warm / 40, power=power) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("warm", [0, 5])
def test_exponential_equals_torchs(warm):
    gamma = 0.02 ** (1 / (40 - warm))
    expected = torch_sequence(40, warm, lambda o: lr_scheduler.ExponentialLR(o, gamma=gamma))
    assert sequence("exponential", 40, warmup=warm / 40, final_factor=0.02) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("warm", [0, 10])
@pytest.mark.parametrize("pieces", [2, 3, 5])
def test_step_equals_torchs(warm, pieces):
    length = 30 * pieces
    expected = torch_sequence(length + warm, warm, lambda o: lr_scheduler.StepLR(o, step_size=30, gamma=0.3))
    factors = sequence("step", length + warm, warmup=warm / (length + warm), gamma=0.3, step_share=1 / pieces)
    assert factors == pytest.approx(expected, abs=1e-12)


def test_multistep_equals_torchs():
    expected = torch_sequence(70, 0, lambda o: lr_scheduler.MultiStepLR(o, milestones=[21, 49, 63], gamma=0.5))
    shares = {"milestone1": 21 / 70, "milestone2": 0.7, "milestone3": 0.9}
    assert sequence("multistep", 70, warmup=0.0, gamma=0.5, **shares) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("rise", [0.1, 0.3, 0.5])
def test_one_cycle_equals_torchs(rise):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=50, pct_start=rise, cycle_momentum=False)
    expected = []
    for _ in range(50):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(expected) < 50:
            scheduler.step()
    assert sequence("one_cycle", 50, rise=rise) == pytest.approx(expected, abs=1e-12)


def test_inverse_sqrt_with_the_timescale_of_its_warm_up_is_the_transformers():
    factors = sequence("inverse_sqrt", 100, warmup=0.1, timescale=0.1)
    expected = [min((t + 1) / 10, math.sqrt(10 / max(t, 10))) for t in range(100)]
    assert factors == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", lambda q: 1 - q),
        ("1-sqrt", lambda q: 1 - math.sqrt(q)),
        ("cosine", lambda q: (1 + math.cos(math.pi * q)) / 2),
    ],
)
def test_the_shapes_of_a_cool_down(shape, expected):
    factors = sequence("wsd", 20, warmup=0.0, cooldown=0.5, cooldown_shape=shape, floor=0.1)
    assert factors[:10] == [1.0] * 10
    assert factors[10:] == pytest.approx([0.1 + 0.9 * expected(i / 10) for i in range(10)], abs=1e-12)


def test_no_parameter_shares_its_name_with_an_optimizers_hyperparameter():
    own = {p.name for info in INFOS.values() for p in info.parameters}
    assert not own & {h.name for info in optimizers.catalogue().values() for h in info.hyperparameters}


def test_a_name_means_one_range_in_all_schedules():
    legal = {}
    for info in INFOS.values():
        for p in info.parameters:
            assert legal.setdefault(p.name, (p.low, p.high, p.choices)) == (p.low, p.high, p.choices)


@pytest.mark.parametrize("name", having("warmup"))
@pytest.mark.parametrize("total", [1, 2, 3, 97])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 1.0])
def test_factors_are_positive_rise_once_and_fall_once(name, total, warmup):
    factors = sequence(name, total, warmup=warmup)
    assert all(0 < factor <= 1 for factor in factors)
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


@pytest.mark.parametrize("name", having("floor"))
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
        p.name: p.low + torch.rand(64, generator=generator, dtype=torch.float64)
        for p in INFOS[name].parameters
        if not p.choices and not p.integer
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
    for parameter in INFOS[name].parameters:
        assert parameter.fault(parameter.default) is None
        if parameter.choices:
            continue
        assert parameter.search is not None
        assert parameter.search.source
        assert parameter.fault(parameter.search.min) is None
        assert parameter.fault(parameter.search.max) is None


def test_every_fault_is_named():
    with pytest.raises(InvalidInput, match=r"'cosin' is not known; known are constant, linear, cosine, wsd"):
        schedules.multiplier("cosin", 0, 10)
    with pytest.raises(InvalidInput) as caught:
        schedules.multiplier("cosine", -1, 0, floor=2.0, warmup=math.nan, cooldown=0.1, cycles=1.5)
    assert [fault.field for fault in caught.value.faults] == ["t", "total", "floor", "warmup", "cooldown", "cycles"]
    assert "it has warmup, floor" in str(caught.value)
    with pytest.raises(InvalidInput, match=r"cooldown_shape is 'sqrt'; allowed is one of linear, 1-sqrt, cosine"):
        schedules.multiplier("wsd", 0, 10, cooldown_shape="sqrt")
    with pytest.raises(InvalidInput, match="for all trials"):
        schedules.multiplier("wsd", 0, 10, cooldown_shape=torch.zeros(2))


@pytest.mark.parametrize(("cycles", "growth"), [(400, 8.0), (2, 1e300), (10**9, 1.5), (10**300, 1.0), (1000, 2.0)])
def test_cosine_with_enormous_lengths_ends_with_its_longest_cycle(cycles, growth):
    """Of cycles that grow by r, the last begins at the share 1 / r: from there it is half a cosine by hand."""
    factors = sequence("cosine", 100, warmup=0.0, cycles=cycles, cycle_growth=growth)
    assert all(0 <= factor <= 1 for factor in factors)
    if growth > 1.1:
        begin = 100 / growth
        for t in range(math.ceil(begin) + 1, 100):
            within = (t - begin) / (100 - begin)
            assert factors[t] == pytest.approx(0.5 + 0.5 * math.cos(math.pi * within), abs=1e-6)
