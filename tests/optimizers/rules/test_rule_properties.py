"""Known answers of single rules: closed forms, first steps, limits."""

import math

import pytest
import torch

from tuner.optimizers import Stacked


def steps(name, start, gradients, **hp):
    """Step one parameter of two trials through the gradients; returns the iterates, each [2, n]."""
    stack = Stacked(name, {"p": start.clone()}, hp)
    iterates = []
    for gradient in gradients:
        stack.step({"p": gradient})
        iterates.append(stack.params["p"].clone())
    return iterates


@pytest.fixture
def start():
    return torch.tensor([[1.0, -2.0, 0.5], [3.0, -0.25, 4.0]], dtype=torch.float64)


@pytest.fixture
def gradient():
    return torch.tensor([[0.3, -4.0, 1e-3], [-20.0, 0.7, 0.02]], dtype=torch.float64)


def test_adamw_without_gradients_only_decays(start):
    lrs = torch.tensor([0.1, 0.02], dtype=torch.float64)
    last = steps("adamw", start, [torch.zeros_like(start)] * 7, lr=lrs, weight_decay=0.3)[-1]
    torch.testing.assert_close(last, start * ((1 - lrs * 0.3) ** 7)[:, None], rtol=1e-14, atol=0)


def test_adamws_first_step_is_the_sign_of_the_gradient(start, gradient):
    first = steps("adamw", start, [gradient], lr=0.1, eps=0.0, weight_decay=0.0)[0]
    torch.testing.assert_close(first, start - 0.1 * gradient.sign(), rtol=1e-14, atol=0)


def test_adamw_without_eps_ignores_the_gradients_scale(start, gradient):
    gradients = [gradient, -2 * gradient, gradient.flip(1)]
    scales = torch.tensor([1e-6, 3.0, 1e7], dtype=torch.float64)
    plain = steps("adamw", start, gradients, lr=0.1, eps=0.0)[-1]
    scaled = steps("adamw", start, [g * scales for g in gradients], lr=0.1, eps=0.0)[-1]
    torch.testing.assert_close(scaled, plain, rtol=1e-13, atol=0)


def test_adamws_eps_is_added_after_the_root_of_the_corrected_moment(start, gradient):
    first = steps("adamw", start, [gradient], lr=0.1, eps=0.5, weight_decay=0.0)[0]
    torch.testing.assert_close(first, start - 0.1 * gradient / (gradient.abs() + 0.5), rtol=1e-14, atol=0)


def test_a_constant_gradient_grows_the_heavy_ball_to_g_over_1_minus_momentum(start, gradient):
    momenta = torch.tensor([0.9, 0.5], dtype=torch.float64)
    iterates = steps("momentum", start, [gradient] * 400, lr=0.01, momentum=momenta)
    torch.testing.assert_close(
        iterates[-2] - iterates[-1], 0.01 * gradient / (1 - momenta[:, None]), rtol=1e-10, atol=1e-14
    )


@pytest.mark.parametrize("name", ["momentum", "nesterov"])
def test_momentum_0_is_sgd_bit_for_bit(name, start, gradient):
    start, gradients = start.float(), [gradient.float(), -gradient.float(), gradient.float().flip(1)]
    with_momentum = steps(name, start, gradients, lr=0.3, momentum=0.0, weight_decay=0.01)
    plain = steps("sgd", start, gradients, lr=0.3, weight_decay=0.01)
    assert all(torch.equal(a, b) for a, b in zip(with_momentum, plain, strict=True))


def test_sgd_contracts_a_quadratic_by_1_minus_lr_times_curvature(start):
    curvature = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
    lrs = torch.tensor([0.1, 0.6], dtype=torch.float64)  # the second is beyond 2 / 4: the third element grows
    stack = Stacked("sgd", {"p": start.clone()}, {"lr": lrs})
    for _ in range(30):
        stack.step({"p": curvature * stack.params["p"]})
    expected = start * (1 - lrs[:, None] * curvature) ** 30
    torch.testing.assert_close(stack.params["p"], expected, rtol=1e-11, atol=1e-15)
    assert stack.params["p"][1, 2].abs() > start[1, 2].abs()


def test_the_heavy_ball_follows_the_roots_of_its_characteristic_polynomial():
    """On curvature c the iterates are a·z1^t + b·z2^t with z² - (1 + mu - lr·c)·z + mu = 0."""
    lr, mu, curvature = 0.05, 0.4, 1.5
    linear = 1 + mu - lr * curvature
    z1 = (linear + math.sqrt(linear**2 - 4 * mu)) / 2
    z2 = mu / z1
    p0, p1 = 1.0, 1.0 - lr * curvature
    b = (p1 - z1 * p0) / (z2 - z1)
    stack = Stacked("momentum", {"p": torch.ones(1, 1, dtype=torch.float64)}, {"lr": lr, "momentum": mu})
    for _ in range(25):
        stack.step({"p": curvature * stack.params["p"]})
    assert float(stack.params["p"]) == pytest.approx((p0 - b) * z1**25 + b * z2**25, rel=1e-11)


def test_trials_keep_their_own_count_of_steps(start, gradient):
    """A trial admitted later has its own bias correction."""
    late = Stacked("adamw", {"p": start.clone()}, {"lr": 0.1, "eps": 0.0, "weight_decay": 0.0})
    late.step({"p": gradient})
    late.state.step[1] = 0
    for tensors in late.state.buffers.values():
        tensors["p"][1] = 0
    before = late.params["p"].clone()
    late.step({"p": gradient})
    torch.testing.assert_close(late.params["p"][1], before[1] - 0.1 * gradient[1].sign(), rtol=1e-14, atol=0)
    assert late.state.step.tolist() == [2, 1]
