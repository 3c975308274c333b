"""A loop that forgets to zero its gradients is told so; loops that zero them, in any way, are not."""

import pytest
import torch
from torch import nn

from tuner.errors import InvalidInput
from tuner.noise import Meter

COUNT = 4


def zero_to_none(model: nn.Module) -> None:
    model.zero_grad()


def zero_in_place(model: nn.Module) -> None:
    model.zero_grad(set_to_none=False)


def zero_one_by_one(model: nn.Module) -> None:
    for param in model.parameters():
        assert param.grad is not None
        param.grad.zero_()


def zero_behind_autograd(model: nn.Module) -> None:
    for param in model.parameters():
        assert param.grad is not None
        param.grad.data.zero_()


def zero_after_clipping(model: nn.Module) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    model.zero_grad(set_to_none=False)


def measure(zero, meter: Meter, size: int = 50, noise: float = 0.3, steps: int = 12) -> None:
    """Train a mean by examples of the given noise around 1."""
    torch.manual_seed(0)
    model = nn.Linear(size, 1)
    for _ in range(steps):
        for _ in range(COUNT):
            loss = (model(1 + noise * torch.randn(3, size)) - 1).square().mean() / COUNT
            loss.backward()
            meter.micro(model.parameters())
        meter.step()
        with torch.no_grad():
            for param in model.parameters():
                param.sub_(param.grad, alpha=1e-3)
        if zero is not None:
            zero(model)


@pytest.mark.parametrize("noise", [0.0, 0.3, 10.0])
def test_a_forgotten_zero_grad_is_refused(noise: float) -> None:
    with pytest.raises(InvalidInput, match="still held the last step's sum; call zero_grad"):
        measure(None, Meter(3), noise=noise, steps=2)


@pytest.mark.parametrize(
    "zero", [zero_to_none, zero_in_place, zero_one_by_one, zero_behind_autograd, zero_after_clipping]
)
@pytest.mark.parametrize("noise", [0.0, 0.3, 10.0])
def test_every_way_to_zero_is_accepted_and_gives_the_same(zero, noise: float) -> None:
    meter, expected = Meter(3), Meter(3)
    measure(zero, meter, noise=noise)
    measure(zero_to_none, expected, noise=noise)
    assert meter.estimate().trace == pytest.approx(expected.estimate().trace, rel=1e-5)
    assert meter.estimate().steps == 12
