"""Scion: each role's step has the length of its ball, in the ball's own norm."""

import math

import pytest
import torch

from tuner.optimizers import Stacked
from tuner.optimizers.rules.scion import direction_of, spectral_scale

DOUBLE = torch.float64
SHAPES = {"matrix": (8, 3), "convolution": (6, 4, 3, 2), "head": (3, 5), "embedding": (7, 4), "vector": (5,)}
BAND = (0.68, 1.14)
"""Of singular values after five Newton-Schulz steps, from 0.01 of the Frobenius norm upwards."""


def draw(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(2, *shape, generator=generator, dtype=DOUBLE) for name, shape in SHAPES.items()}


def step(grads, start=None, **hp):
    start = start or {name: torch.zeros_like(grad) for name, grad in grads.items()}
    params = {name: p.clone() for name, p in start.items()}
    stack = Stacked("scion", params, hp, roles={name: name for name in grads})
    stack.step(grads)
    return stack.params


def test_each_role_moves_to_the_boundary_of_its_ball():
    lr, radius, head = 0.01, torch.tensor([50.0, 2.0], dtype=DOUBLE), 3000.0
    grads = draw()
    moved = {name: -p for name, p in step(grads, lr=lr, radius=radius, head_radius=head, momentum=0.0).items()}
    length = lr * radius
    torch.testing.assert_close(moved["head"], lr * head / 5 * grads["head"].sign(), rtol=1e-13, atol=0)
    rows = moved["embedding"].square().mean(2).sqrt()
    torch.testing.assert_close(rows, length[:, None].expand(2, 7), rtol=1e-6, atol=0)
    vectors = moved["vector"].square().mean(1).sqrt()
    torch.testing.assert_close(vectors, length, rtol=1e-6, atol=0)
    for name, scale in (("matrix", math.sqrt(8 / 3)), ("convolution", math.sqrt(6 / 4) / 6)):
        singular = torch.linalg.svdvals(moved[name].flatten(2)) / (length * scale)[:, None]
        assert (singular > BAND[0]).all() and (singular < BAND[1]).all()
        assert (moved[name] * grads[name]).flatten(1).sum(1).gt(0).all()


def test_the_scale_takes_the_fan_in_of_channels_and_the_number_of_taps():
    assert spectral_scale((8, 2)) == 2.0
    assert spectral_scale((8, 2, 3, 5)) == pytest.approx(2.0 / 15)


def test_the_scale_of_gradients_does_not_matter():
    grads = draw()
    plain = step(grads, momentum=0.0)
    scaled = step({name: 1e4 * grad for name, grad in grads.items()}, momentum=0.0)
    for name, moved in plain.items():
        torch.testing.assert_close(scaled[name], moved, rtol=1e-6, atol=1e-9)


def test_no_gradient_is_no_direction():
    still = {name: torch.zeros_like(grad) for name, grad in draw().items()}
    assert all((p == 0).all() for p in step(still).values())


def test_constrained_parameters_shrink_into_their_balls():
    """From outside, each step takes lr of the way; inside they stay: the largest element of a head is radius / k."""
    start = {name: 1e3 * p for name, p in draw(1).items()}
    params = {name: p.clone() for name, p in start.items()}
    hp = {"lr": 0.1, "radius": 1.0, "head_radius": 2.0, "constrained": "yes"}
    stack = Stacked("scion", params, hp, roles={name: name for name in params})
    for seed in range(200):
        stack.step(draw(seed))
    assert stack.params["head"].abs().max() <= 2.0 / 5 * (1 + 1e-5)
    assert stack.params["embedding"].square().mean(2).sqrt().max() <= 1 + 1e-5
    assert stack.params["vector"].square().mean(1).sqrt().max() <= 1 + 1e-5
    assert torch.linalg.svdvals(stack.params["matrix"]).max() <= BAND[1] * math.sqrt(8 / 3)


def test_matrices_of_one_flattened_shape_go_together_without_changing_a_bit():
    roles = {"first": "matrix", "kernel": "convolution", "last": "matrix"}
    generator = torch.Generator().manual_seed(3)
    shapes = {"first": (8, 6), "kernel": (8, 3, 2, 1), "last": (8, 6)}
    grads = {name: torch.randn(2, *shape, generator=generator) for name, shape in shapes.items()}
    together = Stacked("scion", {name: torch.zeros_like(g) for name, g in grads.items()}, {}, roles=roles)
    together.step(grads)
    for name, grad in grads.items():
        alone = Stacked("scion", {name: torch.zeros_like(grad)}, {}, roles={name: roles[name]})
        alone.step({name: grad})
        assert alone.params[name].abs().min() > 0
        assert torch.equal(alone.params[name], together.params[name])


def test_momentum_is_the_share_kept():
    """After gradients g and then 0 the average is still along g; with the authors' convention momentum 1 forgets it."""
    grads = draw()
    stack = Stacked(
        "scion",
        {n: torch.zeros_like(g) for n, g in grads.items()},
        {"momentum": 0.75},
        roles=dict((name, name) for name in grads),
    )
    stack.step(grads)
    for name, grad in grads.items():
        torch.testing.assert_close(stack.state.buffers["momentum_buffer"][name], 0.25 * grad, rtol=1e-14, atol=0)


def test_heads_and_embeddings_of_one_dim_are_vectors():
    averaged = torch.tensor([[3.0, -4.0]], dtype=DOUBLE)
    for role in ("head", "embedding", "vector"):
        torch.testing.assert_close(direction_of(averaged, role), averaged / math.sqrt(12.5), rtol=1e-7, atol=0)
