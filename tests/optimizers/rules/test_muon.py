"""Muon: its scale, its routing by role, its fallback."""

import math

import pytest
import torch

from tuner.optimizers import Stacked
from tuner.optimizers.maths.newton_schulz import newton_schulz


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(6, 24), (24, 6), (5, 5)])
def test_momentum_0_is_spectral_descent_with_the_original_scale(shape):
    start, gradient = random(2, *shape), random(2, *shape, seed=1)
    stack = Stacked("muon", {"p": start.clone()}, {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0})
    stack.step({"p": gradient})
    scale = math.sqrt(max(1, shape[0] / shape[1]))
    torch.testing.assert_close(stack.params["p"], start - 0.1 * scale * newton_schulz(gradient), rtol=0, atol=1e-13)


def test_the_step_looks_ahead_by_one_more_share_of_momentum():
    """Three steps of M = mu M + (1 - mu) G, W = W (1 - lr wd) - lr O((1 - mu) G + mu M), written out."""
    start, gradients, mu = random(2, 5, 5), [random(2, 5, 5, seed=s) for s in range(1, 4)], 0.7
    stack = Stacked("muon", {"p": start.clone()}, {"lr": 0.1, "momentum": mu, "weight_decay": 0.2})
    weights, buffer = start.clone(), torch.zeros_like(start)
    for gradient in gradients:
        stack.step({"p": gradient})
        buffer = mu * buffer + (1 - mu) * gradient
        weights = weights * (1 - 0.1 * 0.2) - 0.1 * newton_schulz((1 - mu) * gradient + mu * buffer)
    torch.testing.assert_close(stack.params["p"], weights, rtol=0, atol=1e-13)


def test_a_convolution_is_the_matrix_of_its_flattened_kernels():
    start, gradients = random(3, 8, 3, 2, 1), [random(3, 8, 3, 2, 1, seed=s) for s in range(1, 4)]
    hp = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2}
    kernels = Stacked("muon", {"p": start.clone()}, hp, roles={"p": "convolution"})
    matrix = Stacked("muon", {"p": start.flatten(2).clone()}, hp, roles={"p": "matrix"})
    for gradient in gradients:
        kernels.step({"p": gradient})
        matrix.step({"p": gradient.flatten(2)})
    assert torch.equal(kernels.params["p"].flatten(2), matrix.params["p"])
    # 8 x 6, so the scale is sqrt(8 / 6); by its first two dims alone it would be sqrt(8 / 3).
    step = Stacked("muon", {"p": start.clone()}, {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0})
    step.step({"p": gradients[0]})
    moved = torch.linalg.svdvals((start - step.params["p"]).flatten(2))
    assert 0.68 * math.sqrt(8 / 6) < moved.min() < moved.max() < 1.21 * math.sqrt(8 / 6)


@pytest.mark.parametrize("role", ["head", "embedding", "vector"])
def test_other_roles_are_adamw_with_their_share_of_the_learning_rate(role):
    start, gradients = random(3, 4, 6), [random(3, 4, 6, seed=s) for s in range(1, 6)]
    moments = {"beta1": 0.8, "beta2": 0.9, "eps": 1e-6, "weight_decay": 0.3}
    muon = Stacked("muon", {"p": start.clone()}, {"lr": 0.1, "fallback_lr_ratio": 0.25, **moments}, roles={"p": role})
    adamw = Stacked("adamw", {"p": start.clone()}, {"lr": 0.025, **moments})
    for gradient in gradients:
        muon.step({"p": gradient})
        adamw.step({"p": gradient})
    assert torch.equal(muon.params["p"], adamw.params["p"])
    assert list(muon.state.buffers) == ["exp_avg", "exp_avg_sq"]


def test_parameters_of_one_shape_go_together_without_changing_a_bit():
    start = {name: random(3, 20, 12, seed=seed).float() for seed, name in enumerate("abc")}
    grads = {name: random(3, 20, 12, seed=9 + seed).float() for seed, name in enumerate("abc")}
    together = Stacked("muon", {name: value.clone() for name, value in start.items()}, {})
    together.step(grads)
    for name, value in start.items():
        alone = Stacked("muon", {name: value.clone()}, {})
        alone.step({name: grads[name]})
        assert torch.equal(alone.params[name], together.params[name])


SCALES = {
    "original": lambda m, k: math.sqrt(max(1, m / k)),
    "match_rms_adamw": lambda m, k: 0.2 * math.sqrt(max(m, k)),
    "spectral": lambda m, k: math.sqrt(m / k),
}


def moved(gradient, **structure):
    """The movement -Δp of one step at lr 1 from zero, without momentum or decay."""
    hp = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, **structure}
    stack = Stacked("muon", {"p": torch.zeros_like(gradient)}, hp, roles={"p": "convolution"})
    stack.step({"p": gradient})
    return -stack.params["p"]


@pytest.mark.parametrize("scale", list(SCALES))
@pytest.mark.parametrize("shape", [(8, 3, 2, 1), (3, 8, 2, 2)])
def test_scales_take_the_flattened_shape(scale, shape):
    gradient = random(2, *shape)
    factor = SCALES[scale](shape[0], math.prod(shape[1:]))
    torch.testing.assert_close(moved(gradient, scale=scale).flatten(2), factor * newton_schulz(gradient.flatten(2)))


def test_steps_of_matched_scale_have_about_the_root_mean_square_of_adamws():
    step = moved(random(2, 32, 96), scale="match_rms_adamw", coefficients="dion")
    torch.testing.assert_close(step.square().mean().sqrt(), torch.tensor(0.2).double(), rtol=0.03, atol=0)


@pytest.mark.parametrize("coefficients", ["original", "dion", "polar_express", "cubic"])
def test_coefficients_and_steps_reach_newton_schulz(coefficients):
    gradient = random(2, 6, 9)
    for steps in (1, 5, 7):
        result = moved(gradient, coefficients=coefficients, ns_steps=steps)
        torch.testing.assert_close(result, newton_schulz(gradient, coefficients, steps), rtol=0, atol=1e-13)
    custom = moved(gradient, coefficients="custom", ns_a=2.0, ns_b=-1.5, ns_c=0.5)
    torch.testing.assert_close(custom, newton_schulz(gradient, (2.0, -1.5, 0.5)), rtol=0, atol=1e-13)


def test_bfloat16_is_asked_for_by_name():
    gradient = random(2, 16, 32).float()
    assert torch.equal(moved(gradient, precision="bfloat16"), newton_schulz(gradient, dtype=torch.bfloat16))


def test_rotations_of_the_gradient_rotate_the_step_and_a_transpose_transposes_it():
    gradient = random(2, 6, 9)
    left, right = torch.linalg.qr(random(6, 6, seed=2))[0], torch.linalg.qr(random(9, 9, seed=3))[0]
    torch.testing.assert_close(moved(left @ gradient @ right), left @ moved(gradient) @ right, rtol=0, atol=1e-12)
    across, down = moved(gradient, scale="spectral"), moved(gradient.mT.contiguous(), scale="spectral")
    torch.testing.assert_close(down.mT * (6 / 9), across, rtol=0, atol=1e-12)
