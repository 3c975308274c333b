"""PSGD: what its factors converge to, how they move with the gradient's units, and when they are fitted."""

import pytest
import torch
from staggered import assert_latecomers_are_alone

from tuner.optimizers import Stacked
from tuner.optimizers.rules.psgd_kron import _fit, _whitened, fits


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def eye(count, size):
    return torch.eye(size, dtype=torch.float64).repeat(count, 1, 1)


def test_fitting_one_gradient_until_it_stays_solves_the_whitening_equations():
    """A A' = ‖Q_R⁻¹‖² (Q_L Q_L')⁻¹ and its mirror image are what a minimum of g'Pg + v'P⁻¹v needs."""
    gradient = random(2, 3, 3)
    factors = {"left": eye(2, 3), "right": eye(2, 3)}
    for rate in (0.5, 0.1, 0.02):
        for _ in range(250):
            _fit(factors, gradient, torch.full((2,), rate, dtype=torch.float64), None)
    left, right = factors["left"], factors["right"]
    a = left @ gradient @ right.mT
    noise = torch.linalg.inv(left @ left.mT) * torch.linalg.inv(right).square().sum((1, 2)).reshape(-1, 1, 1)
    torch.testing.assert_close(a @ a.mT, noise, rtol=1e-6, atol=1e-6)
    assert (left.tril(-1) == 0).all() and (right.tril(-1) == 0).all()


def test_gradients_of_independent_elements_are_whitened():
    """Rows of very different sizes: after fitting, the mean square of every row of the step is near 1."""
    scales = torch.tensor([0.3, 1.0, 10.0], dtype=torch.float64).reshape(3, 1)
    factors = {"left": eye(1, 3), "right": eye(1, 8)}
    for step in range(700):
        rate = 0.3 if step < 200 else 0.03
        _fit(factors, scales * random(1, 3, 8, seed=step), torch.full((1,), rate, dtype=torch.float64), None)
    sizes = _whitened({key: factor.expand(500, -1, -1) for key, factor in factors.items()}, scales * random(500, 3, 8))
    rows = sizes.square().mean((0, 2))
    assert ((rows > 0.5) & (rows < 2)).all(), rows


def test_a_fit_is_the_mean_over_noise_of_other_implementations_fits():
    """The numerator of the step: what random probes give on average, here over all of a complete set of them."""
    left, right = (torch.triu(random(n, n, seed=n)) + 3 * torch.eye(n, dtype=torch.float64) for n in (3, 4))
    total = torch.zeros(3, 3, dtype=torch.float64)
    for row in range(3):
        for column in range(4):
            probe = torch.zeros(3, 4, dtype=torch.float64)
            probe[row, column] = 1.0
            b = torch.linalg.inv(left).T @ probe @ torch.linalg.inv(right)
            total += b @ b.T
    expected = torch.linalg.inv(left @ left.T) * torch.linalg.inv(right).square().sum()
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-14)
    gradient, rate = random(1, 3, 4, seed=7), torch.tensor([0.1], dtype=torch.float64)
    factors = {"left": left[None].clone(), "right": right[None].clone()}
    _fit(factors, gradient, rate, None)
    a = left @ gradient[0] @ right.T
    signal = a @ a.T
    row = (signal + total)[(signal + total).norm(dim=1).argmax()]
    bound = ((signal + total) @ (row / row.norm())).norm()
    moved = left - 0.1 / bound * torch.triu(signal - total) @ left
    ratio = factors["left"][0] / moved  # balanced: one factor for all elements
    torch.testing.assert_close(ratio.triu(), ratio[0, 0] * torch.ones_like(ratio).triu(), rtol=1e-12, atol=1e-14)
    assert bound <= torch.linalg.matrix_norm(signal + total, 2) * (1 + 1e-12)
    torch.testing.assert_close(factors["left"].abs().amax(), factors["right"].abs().amax())


def test_a_step_is_never_longer_than_its_clip():
    stack = Stacked("psgd_kron", {"p": torch.zeros(1, 6, 6)}, {"lr": 1.0, "weight_decay": 0.0})
    stack.step({"p": 1e4 * random(1, 6, 6).float()})
    torch.testing.assert_close(stack.params["p"].square().mean().sqrt(), torch.tensor(1.1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("share", [0.03, 0.2, 1.0])
def test_steps_that_fit_are_those_of_the_usual_schedule(share):
    """The counter of pytorch_optimizer 4's Kron, with its schedule from 1 down to `share`."""
    from pytorch_optimizer.optimizer.psgd import precondition_update_prob_schedule  # takes seconds: only here

    schedule = precondition_update_prob_schedule(min_prob=share)
    counter, expected = 0, []
    for step in range(5000):
        counter += 1
        expected.append(bool(counter >= 1 / schedule(step)))
        counter = 0 if expected[-1] else counter
    own = [fits(step + 1, share) for step in range(5000)]
    assert own[:500] == [True] * 500
    assert own == expected


def test_long_sides_get_no_factor_and_fallbacks_are_adamw():
    hp = {
        "lr": 0.1,
        "fallback_lr_ratio": 0.25,
        "momentum": 0.8,
        "beta2": 0.9,
        "eps": 1e-6,
        "weight_decay": 0.3,
        "max_dim": 5,
    }
    params = {"p": random(2, 4, 6), "bias": random(2, 7, seed=1)}
    grads = {"p": random(2, 4, 6, seed=2), "bias": random(2, 7, seed=3)}
    stack = Stacked("psgd_kron", {key: value.clone() for key, value in params.items()}, hp)
    adamw_hp = {"lr": 0.025, "beta1": 0.8, "beta2": 0.9, "eps": 1e-6, "weight_decay": 0.3}
    adamw = Stacked("adamw", {"bias": params["bias"].clone()}, adamw_hp)
    for _ in range(3):
        stack.step(grads)
        adamw.step({"bias": grads["bias"]})
    assert set(stack.state.pools) == {"left"} and stack.state.pools["left"]["p"].shape == (2, 4, 4)
    assert torch.equal(stack.params["bias"], adamw.params["bias"])


def test_trials_that_joined_later_go_on_as_if_alone():
    assert_latecomers_are_alone("psgd_kron", {})


def test_trials_that_do_not_fit_keep_their_factors():
    stack = Stacked("psgd_kron", {"p": torch.zeros(2, 4, 5)}, {"update_share": 0.5})
    for step in range(3):
        stack.step({"p": random(2, 4, 5, seed=step).float()})
    period_apart = [count for count in range(4000, 4004) if not fits(count + 1, 0.5)]
    stack.state.counts = (period_apart[0], 3)
    kept = stack.state.pools["left"]["p"].clone()
    stack.step({"p": random(2, 4, 5, seed=9).float()})
    assert torch.equal(stack.state.pools["left"]["p"][0], kept[0])
    assert not torch.equal(stack.state.pools["left"]["p"][1], kept[1])
