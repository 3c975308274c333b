"""Adafactor: exact where it can be, factored inside each trial, relative in its steps."""

import pytest
import torch

from tuner.optimizers import Stacked

DOUBLE = torch.float64


@pytest.fixture
def outer():
    """Gradients [2, 6, 4] whose squares have rank 1."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 6, 1, generator=generator, dtype=DOUBLE), torch.randn(2, 1, 4, generator=generator)
    return left * right.double()


def first_step(start, grad, **hp):
    stack = Stacked("adafactor", {"p": start.clone()}, hp)
    stack.step({"p": grad})
    return stack.params["p"] - start


def test_a_second_moment_of_rank_1_is_exact(outer):
    """At step 1 the average is g² itself, so the direction is sign(g), whose RMS is 1."""
    moved = first_step(torch.zeros_like(outer), outer, lr=0.3, eps2=1.0)
    torch.testing.assert_close(moved, -0.3 * outer.sign(), rtol=1e-13, atol=0)


def test_a_second_moment_of_rank_1_stays_exact_when_gradients_only_change_their_size(outer):
    stack = Stacked("adafactor", {"p": torch.zeros_like(outer)}, {"eps2": 1.0, "clip_threshold": 2.0, "lr": 0.1})
    second = torch.zeros_like(outer)
    for step, size in enumerate((1.0, 3.0, 0.5, 2.0), start=1):
        before = stack.params["p"].clone()
        stack.step({"p": size * outer})
        second += step**-0.8 * ((size * outer) ** 2 - second)
        direction = size * outer / second.sqrt()
        excess = (direction.flatten(1).square().mean(1).sqrt() / 2).clamp(min=1)
        size_of_p = before.flatten(1).square().mean(1).sqrt().clamp(min=1.0)
        expected = direction * (0.1 * size_of_p / excess)[:, None, None]
        torch.testing.assert_close(before - stack.params["p"], expected, rtol=1e-12, atol=0)


def test_steps_are_relative_to_the_size_of_the_parameter_and_capped(outer):
    """Sizes are per trial; lr is a cap of 1/√t."""
    start = torch.ones_like(outer) * torch.tensor([5.0, 1e-9], dtype=DOUBLE)[:, None, None]
    moved = first_step(start, outer, lr=torch.tensor([0.01, 50.0], dtype=DOUBLE))
    rms = moved.flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(rms, torch.tensor([0.05, 1e-3], dtype=DOUBLE), rtol=1e-6, atol=0)


def test_convolutions_are_factored_over_their_last_two_dims():
    stack = Stacked("adafactor", {"w": torch.ones(3, 8, 4, 5, 2), "b": torch.ones(3, 8)}, {})
    shapes = {name: tuple(tensor.shape) for name, tensor in stack.state.tensors().items()}
    assert shapes == {"pools.row_var.w": (3, 8, 4, 5), "pools.col_var.w": (3, 8, 4, 2), "pools.variance.b": (3, 8)}


def test_zero_gradients_move_nothing_even_with_the_smallest_eps1():
    """The square of 1e-30 is 0 in float32."""
    start = {"w": torch.ones(2, 3, 4), "b": torch.ones(2, 3)}
    stack = Stacked("adafactor", {name: p.clone() for name, p in start.items()}, {"eps1": 1e-30})
    stack.step({name: torch.zeros_like(p) for name, p in start.items()})
    assert all(torch.equal(stack.params[name], p) for name, p in start.items())


def test_moment_warmup_only_gathers():
    stack = Stacked("adafactor", {"w": torch.ones(1, 3, 4)}, {"moment_warmup": 2})
    for still in (True, True, False):
        stack.step({"w": torch.rand(1, 3, 4)})
        assert bool((stack.params["w"] == 1).all()) is still
