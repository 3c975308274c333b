"""Duality maps: each attains its dual norm at unit length, and steepest descent steps along them."""

import math

import pytest
import torch

from tuner.optimizers import Stacked
from tuner.optimizers.maths.duality import NORMS, ModularNorm, pairing
from tuner.optimizers.maths.newton_schulz import polar


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (1, 5), (7, 7)])
@pytest.mark.parametrize("name", list(NORMS))
def test_the_map_has_unit_norm_and_attains_the_dual_norm(name, shape):
    norm, gradient = NORMS[name], random(3, *shape)
    direction = norm.dual_map(gradient)
    torch.testing.assert_close(norm.norm(direction), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-11)
    torch.testing.assert_close(pairing(gradient, direction), norm.dual_norm(gradient), rtol=1e-11, atol=0)


@pytest.mark.parametrize("name", list(NORMS))
def test_no_direction_of_unit_norm_gains_more(name):
    norm, gradient = NORMS[name], random(1, 5, 8)
    others = random(500, 5, 8, seed=1)
    others /= norm.norm(others).reshape(-1, 1, 1)
    assert (pairing(gradient.expand_as(others), others) < norm.dual_norm(gradient)).all()


@pytest.mark.parametrize("name", list(NORMS))
def test_zero_maps_to_zero_and_scale_does_not_matter(name):
    norm, gradient = NORMS[name], random(2, 4, 6)
    gradient[0] = 0
    direction = norm.dual_map(gradient)
    assert not direction[0].any()
    torch.testing.assert_close(norm.dual_map(gradient * 1e4), direction, rtol=0, atol=1e-11)
    assert norm.norm(gradient)[0] == norm.dual_norm(gradient)[0] == 0


@pytest.mark.parametrize("name", list(NORMS))
def test_what_is_not_finite_stays_in_its_place(name):
    norm, gradient = NORMS[name], random(4, 4, 6)
    clean = [function(gradient) for function in (norm.dual_map, norm.norm, norm.dual_norm)]
    gradient[1] = torch.nan
    sick = [function(gradient) for function in (norm.dual_map, norm.norm, norm.dual_norm)]
    for left, right in zip(clean, sick, strict=True):
        assert torch.equal(left[[0, 2, 3]], right[[0, 2, 3]])
    assert sick[1][1].isnan() and sick[2][1].isnan()


def test_rms_to_rms_and_embedding_norms_are_the_operator_norms_they_are_named_after():
    weight = random(1, 5, 8)
    inputs = random(8, 2000, seed=2)
    inputs = torch.cat([inputs, torch.linalg.svd(weight[0])[2].T[:, :1]], dim=1)  # and the worst one
    gain = (weight[0] @ inputs).square().mean(0).sqrt() / inputs.square().mean(0).sqrt()
    torch.testing.assert_close(gain.max(), NORMS["rms_to_rms"].norm(weight)[0], rtol=1e-12, atol=0)
    table = random(1, 6, 4, seed=3)  # a one-hot row times the table is one of its rows
    assert NORMS["embedding"].norm(table)[0] == table[0].square().mean(1).sqrt().max()


def test_the_polar_factor_is_exact_down_to_a_millionth():
    left, right = (torch.linalg.qr(random(12, 12, seed=s))[0] for s in (0, 1))
    values = torch.logspace(0, -5.5, 12, dtype=torch.float64)
    matrix = ((left * values) @ right.T)[None]
    torch.testing.assert_close(polar(matrix)[0], left @ right.T, rtol=0, atol=1e-9)


def test_the_modular_norm_and_its_dual():
    names, masses = {"a": "rms_to_rms", "b": "sign", "c": "embedding"}, {"a": 1.0, "b": 0.25, "c": 3.0}
    modular = ModularNorm({key: NORMS[value] for key, value in names.items()}, masses)
    grads = {"a": random(2, 4, 6), "b": random(2, 3, 5, seed=1), "c": random(2, 6, 2, seed=2)}
    direction = modular.dual_map(grads)
    torch.testing.assert_close(modular.norm(direction), torch.ones(2, dtype=torch.float64), rtol=1e-11, atol=0)
    attained = sum(pairing(grads[key], direction[key]) for key in grads)
    torch.testing.assert_close(attained, modular.dual_norm(grads), rtol=1e-11, atol=0)
    for key, mass in masses.items():
        own = NORMS[names[key]].norm(direction[key])
        torch.testing.assert_close(own, torch.full((2,), mass, dtype=torch.float64), rtol=1e-11, atol=0)


SHAPES = {"hidden": (4, 6), "conv": (4, 3, 2, 1), "head": (3, 5), "table": (6, 4), "bias": (3,)}
ROLES = {"hidden": "matrix", "conv": "convolution", "head": "head", "table": "embedding", "bias": "vector"}
MASS = {"head": 0.5, "embedding": 2.0, "vector": 0.25}


def matrices(tensors):
    return {key: value.reshape(2, 1, 3) if key == "bias" else value.flatten(2) for key, value in tensors.items()}


@pytest.mark.parametrize("factor", ["none", "layer", "modular"])
@pytest.mark.parametrize("hidden_norm", list(NORMS))
def test_a_step_is_the_duality_map_with_its_factor(factor, hidden_norm):
    start = {key: random(2, *shape) for key, shape in SHAPES.items()}
    grads = {key: random(2, *shape, seed=1) for key, shape in SHAPES.items()}
    hp = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.5, "hidden_norm": hidden_norm, "dual_factor": factor}
    hp |= {"head_norm": "sign", "embedding_norm": "row_rms", "vector_norm": "frobenius"}
    hp |= {f"{role}_mass": mass for role, mass in MASS.items()}
    stack = Stacked("steepest", {key: value.clone() for key, value in start.items()}, hp, roles=ROLES)
    stack.step(grads)
    names = {"hidden": hidden_norm, "conv": hidden_norm, "head": "sign", "table": "row_rms", "bias": "frobenius"}
    masses = {key: MASS.get(ROLES[key], 1.0) for key in SHAPES}
    modular = ModularNorm({key: NORMS[name] for key, name in names.items()}, masses)
    directions, flat = modular.dual_map(matrices(grads)), matrices(grads)
    for key, before in matrices(start).items():
        size = {
            "none": torch.ones(2, dtype=torch.float64),
            "layer": NORMS[names[key]].dual_norm(flat[key]),
            "modular": modular.dual_norm(flat),
        }[factor]
        expected = before * (1 - 0.1 * 0.5) - 0.1 * size.reshape(-1, 1, 1) * directions[key]
        torch.testing.assert_close(matrices(stack.params)[key], expected, rtol=0, atol=1e-11)


def test_a_convolution_is_scaled_by_its_flattened_shape():
    start, gradient = torch.zeros(1, 8, 3, 2, 1, dtype=torch.float64), random(1, 8, 3, 2, 1)
    stack = Stacked("steepest", {"p": start}, {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0})
    stack.step({"p": gradient})
    values = torch.linalg.svdvals(stack.params["p"].flatten(2))
    torch.testing.assert_close(values, torch.full_like(values, math.sqrt(8 / 6)), rtol=1e-11, atol=0)


def test_frobenius_with_the_dual_factor_is_gradient_descent():
    start, gradient = random(2, 4, 6), random(2, 4, 6, seed=1)
    hp = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "hidden_norm": "frobenius", "dual_factor": "layer"}
    stack = Stacked("steepest", {"p": start.clone()}, hp)
    stack.step({"p": gradient})
    torch.testing.assert_close(stack.params["p"], start - 0.1 * gradient, rtol=0, atol=1e-14)
