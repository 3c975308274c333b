"""Trials that joined a stack at different times must go on as if each were alone, bit for bit."""

import torch

from tuner.optimizers import Stacked

SHAPES = {"tall": (9, 5), "conv": (4, 3, 2, 1), "head": (3, 5), "bias": (3,)}
ROLES = {"tall": "matrix", "conv": "convolution", "head": "head", "bias": "vector"}


def draw(trials, seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(trials, *shape, generator=generator) for name, shape in SHAPES.items()}


def assert_latecomers_are_alone(name, hp, steps=9, late=4):
    """Trial 1 of three starts anew at step `late`; compare with a stack of its own that sees the same gradients."""
    start, fresh = draw(3, 0), draw(1, 1)
    together = Stacked(name, start, hp, roles=ROLES)
    alone = Stacked(name, {key: value.clone() for key, value in fresh.items()}, hp, roles=ROLES)
    others = Stacked(name, {key: value[[0, 2]].clone() for key, value in start.items()}, hp, roles=ROLES)
    for step in range(steps):
        if step == late:
            state = together.state
            state.step[1], state.counts = 0, (state.counts[0], 0, state.counts[2])
            for tensor in state.tensors().values():
                tensor[1] = 0
            for key, value in fresh.items():
                together.params[key][1] = value[0]
        grads = draw(3, 10 + step)
        together.step(grads)
        others.step({key: value[[0, 2]] for key, value in grads.items()})
        if step >= late:
            alone.step({key: value[1:2] for key, value in grads.items()})
    for key in SHAPES:
        assert torch.equal(together.params[key][1:2], alone.params[key]), key
        assert torch.equal(together.params[key][[0, 2]], others.params[key]), key
    whole = together.state.tensors()
    for key, value in alone.state.tensors().items():
        assert torch.equal(whole[key][1:2], value), key
