"""Lion and Signum: steps of one size, blind to the gradient's scale, and the same rule where the betas are equal."""

from itertools import pairwise

import pytest
import torch

from tuner.optimizers import Stacked


def run(name, gradients, start, **hp):
    stack = Stacked(name, {"p": start.clone()}, hp)
    iterates = [start]
    for gradient in gradients:
        stack.step({"p": gradient})
        iterates.append(stack.params["p"].clone())
    return iterates


@pytest.fixture
def start():
    return torch.randn((2, 40), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def noise():
    return torch.randn((30, 2, 40), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["lion", "signum"])
def test_every_element_moves_by_lr_or_not_at_all(name, start, noise):
    lrs = torch.tensor([0.25, 0.5], dtype=torch.float64)
    noise[:, :, :3] = 0.0
    iterates = run(name, noise, torch.zeros_like(start), lr=lrs)
    for before, after in pairwise(iterates):
        expected = lrs.float()[:, None].expand_as(start).clone()
        expected[:, :3] = 0.0
        assert torch.equal((after - before).abs(), expected)


@pytest.mark.parametrize("name", ["lion", "signum"])
def test_a_power_of_2_in_all_gradients_changes_no_bit(name, start, noise):
    options = {"lr": 0.01, "weight_decay": 0.3}
    plain = run(name, noise, start, **options)[-1]
    for factor in (2.0**-40, 2.0**30):
        assert torch.equal(run(name, noise * factor, start, **options)[-1], plain)


def test_signum_is_lion_with_equal_betas_bit_for_bit(start, noise):
    momenta = torch.tensor([0.9, 0.6], dtype=torch.float64)
    options = {"lr": 0.01, "weight_decay": 0.3}
    signum = run("signum", noise, start, momentum=momenta, **options)
    lion = run("lion", noise, start, beta1=momenta, beta2=momenta, **options)
    assert all(torch.equal(a, b) for a, b in zip(signum, lion, strict=True))
    other = run("lion", noise, start, beta1=momenta, beta2=0.99, **options)
    assert not torch.equal(other[-1], signum[-1])


def test_signum_without_momentum_is_the_gradients_sign(start, noise):
    iterates = run("signum", noise.double(), start.double(), lr=0.01, momentum=0.0)
    expected = start.double() - 0.01 * noise.double().sign().sum(0)
    torch.testing.assert_close(iterates[-1], expected, rtol=0, atol=1e-14)


def test_lions_direction_mixes_with_beta1_and_remembers_with_beta2():
    """Against a memory of opposite sign, beta1 decides who wins; beta2 what is remembered."""
    stack = Stacked(
        "lion",
        {"p": torch.zeros((2, 1), dtype=torch.float64)},
        {"lr": 1.0, "beta1": torch.tensor([0.9, 0.4], dtype=torch.float64), "beta2": 0.5},
    )
    stack.step({"p": torch.ones((2, 1), dtype=torch.float64)})
    stack.step({"p": torch.full((2, 1), -1.0, dtype=torch.float64)})
    assert stack.params["p"].flatten().tolist() == [-2.0, 0.0], "0.9 · 0.5 - 0.1 is above 0, 0.4 · 0.5 - 0.6 below"
