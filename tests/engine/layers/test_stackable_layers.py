"""Stackable layers give every slot its bits wherever it stands; torch's grouped convolutions do not."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import cross_entropy

from tuner.engine.layers import stackable
from tuner.engine.layout import Layout


@pytest.mark.parametrize("slots", [5, 13])
@pytest.mark.parametrize("groups", [(1, 1), (3, 2)])
def test_turning_the_slots_around_turns_the_bits_around(slots: int, groups: tuple[int, int]) -> None:
    """Sizes with which torch's own layers fail this."""
    first, last = groups
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6 if last > 1 else 5, 3, padding=1, groups=first),
        nn.ReLU(),
        nn.Conv2d(6 if last > 1 else 5, 6, 3, stride=2, groups=last),
        nn.Flatten(),
        nn.Linear(54, 5),
    )
    stackable.install(model)
    layout = Layout({name: p.shape for name, p in model.named_parameters()}, torch.float32)
    params = layout.allocate(slots, torch.device("cpu")).normal_(std=0.3)
    x, y = torch.randn(slots, 4, 3, 8, 8), torch.randint(0, 5, (slots, 4))

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, params, (x,)), y)

    program = vmap(grad_and_value(loss))
    gradients, losses = program(layout.views(params), x, y)
    for shift in range(1, slots):
        turned = [(i + shift) % slots for i in range(slots)]
        found, found_losses = program(layout.views(params[turned]), x[turned], y[turned])
        assert torch.equal(losses[turned], found_losses)
        assert all(torch.equal(gradients[name][turned], found[name]) for name in gradients)
