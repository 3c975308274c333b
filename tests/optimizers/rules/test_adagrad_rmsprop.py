"""Known answers of Adagrad, RMSprop and the heavy ball's dampening on constant gradients; what RMSprop keeps."""

import math

import pytest
import torch

from tuner.errors import InvalidInput
from tuner.optimizers import Stacked

START = torch.tensor([[1.0, -2.0, 0.5], [3.0, -0.25, 4.0]], dtype=torch.float64)
GRADIENT = torch.tensor([[0.3, -4.0, 1e-3], [-20.0, 0.7, 0.02]], dtype=torch.float64)


def moves(name, gradients, **hp):
    """Return what each step subtracts from one parameter of two trials, each [2, 3]."""
    stack = Stacked(name, {"p": START.clone()}, hp)
    found = []
    for gradient in gradients:
        before = stack.params["p"].clone()
        stack.step({"p": gradient})
        found.append(before - stack.params["p"])
    return found


def test_adagrads_steps_along_a_constant_gradient_shrink_as_1_over_root_t():
    lrs = torch.tensor([0.1, 0.02], dtype=torch.float64)
    found = moves("adagrad", [GRADIENT] * 100, lr=lrs, eps=0.0)
    for t in (1, 2, 9, 100):
        torch.testing.assert_close(found[t - 1], lrs[:, None] / math.sqrt(t) * GRADIENT.sign(), rtol=1e-11, atol=0)


def test_adagrads_sum_starts_where_it_is_told_for_each_trial_at_its_own_first_step():
    initial = torch.tensor([0.0, 2.0], dtype=torch.float64)
    stack = Stacked("adagrad", {"p": START.clone()}, {"lr": 0.1, "initial_accumulator_value": initial, "eps": 0.0})
    for t in (1, 2):
        stack.step({"p": GRADIENT})
        torch.testing.assert_close(stack.state.buffers["state_sum"]["p"], initial[:, None] + t * GRADIENT**2)
    stack.state.step[1] = 0
    stack.state.buffers["state_sum"]["p"][1] = 0.0
    stack.step({"p": GRADIENT})
    torch.testing.assert_close(stack.state.buffers["state_sum"]["p"][1], 2 + GRADIENT[1] ** 2)
    torch.testing.assert_close(stack.state.buffers["state_sum"]["p"][0], 3 * GRADIENT[0] ** 2)


def test_adagrads_learning_rate_decays_as_told():
    found = moves("adagrad", [GRADIENT] * 3, lr=0.1, lr_decay=0.5, eps=0.0)
    torch.testing.assert_close(found[2], 0.1 / (1 + 2 * 0.5) / math.sqrt(3) * GRADIENT.sign(), rtol=1e-12, atol=0)


def test_rmsprops_first_step_is_large_because_its_average_starts_at_0():
    found = moves("rmsprop", [GRADIENT], lr=0.1, alpha=0.99, eps=0.0)
    torch.testing.assert_close(found[0], 0.1 / math.sqrt(0.01) * GRADIENT.sign(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("placement", "denominator"), [("outside", 1e-2), ("inside", 1e-1)])
def test_centered_on_a_constant_gradient_only_eps_is_left_of_the_denominator(placement, denominator):
    options = {"lr": 1e-3, "alpha": 0.5, "eps": 1e-2, "centered": "yes", "eps_placement": placement}
    found = moves("rmsprop", [GRADIENT / 20] * 120, **options)
    torch.testing.assert_close(found[-1], 1e-3 * GRADIENT / 20 / denominator, rtol=1e-5, atol=0)


def test_a_variance_that_rounding_makes_negative_counts_as_0():
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn((2, 500), generator=generator, dtype=torch.float64)
    stack = Stacked("rmsprop", {"p": torch.zeros_like(gradient)}, {"alpha": 0.9, "centered": "yes", "eps": 1e-3})
    for _ in range(400):
        stack.step({"p": gradient})
    mean, square = (stack.state.buffers[name]["p"] for name in ("grad_avg", "square_avg"))
    assert (square - mean * mean < 0).any(), "the case is not met"
    assert stack.params["p"].isfinite().all()


def test_rmsprops_momentum_gathers_whole_steps():
    momenta = torch.tensor([0.9, 0.5], dtype=torch.float64)
    found = moves("rmsprop", [GRADIENT] * 500, lr=1e-3, alpha=0.9, eps=0.0, momentum=momenta)
    torch.testing.assert_close(found[-1], 1e-3 / (1 - momenta[:, None]) * GRADIENT.sign(), rtol=1e-10, atol=0)


def test_rmsprop_keeps_a_mean_gradient_only_where_it_is_centered():
    plain = Stacked("rmsprop", {"p": START.clone()}, {})
    centered = Stacked("rmsprop", {"p": START.clone()}, {"centered": "yes"})
    assert list(plain.state.buffers) == ["square_avg", "momentum_buffer"]
    assert list(centered.state.buffers) == ["square_avg", "momentum_buffer", "grad_avg"]
    with pytest.raises(InvalidInput, match="structure"):
        plain.load_state_dict(centered.state_dict())


def test_dampening_as_large_as_the_momentum_keeps_an_average():
    """From its first gradient on: a constant one stays itself, where the heavy ball grows to g / (1 - momentum)."""
    found = moves("momentum", [GRADIENT] * 20, lr=0.1, momentum=0.75, dampening=0.75)
    for move in found:
        torch.testing.assert_close(move, 0.1 * GRADIENT, rtol=1e-11, atol=0)


def test_dampening_spares_the_first_gradient_alone():
    first, second = moves("momentum", [GRADIENT, GRADIENT], lr=0.1, momentum=0.0, dampening=0.9)
    torch.testing.assert_close(first, 0.1 * GRADIENT, rtol=1e-12, atol=0)
    torch.testing.assert_close(second, 0.01 * GRADIENT, rtol=1e-11, atol=0)
