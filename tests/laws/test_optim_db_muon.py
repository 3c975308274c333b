"""Every configuration that torch tests its Muon with: as many stacked trials as torch runs, and its error cases."""

import pytest
import torch
from optim_db_matrix import MAPPING
from oracles_torch import polar_by_newton_schulz
from torch_optim_db import entries

from tuner.errors import InvalidInput
from tuner.optimizers import Stacked, build

STEPS = 20
SHAPES = {"tall": (9, 5), "wide": (5, 9)}


@pytest.fixture(scope="module")
def database():
    return entries()["Muon"]


def test_every_configuration_is_torchs_own_in_float64(database, monkeypatch):
    monkeypatch.setattr(torch.optim._muon, "_zeropower_via_newtonschulz", polar_by_newton_schulz)
    generator = torch.Generator().manual_seed(0)
    inputs = [item.kwargs for item in database.optim_inputs_func(device="cpu")]
    assert len(inputs) >= 7
    for kwargs in inputs:
        # torch works out 1 - lr · weight_decay in the type of a tensor lr: here in float64.
        kwargs = {key: value.double() if isinstance(value, torch.Tensor) else value for key, value in kwargs.items()}
        name, hp = MAPPING["Muon"](kwargs)
        start = {key: torch.randn(3, *shape, generator=generator, dtype=torch.float64) for key, shape in SHAPES.items()}
        grads = [
            {key: torch.randn(3, *shape, generator=generator, dtype=torch.float64) for key, shape in SHAPES.items()}
            for _ in range(STEPS)
        ]
        stack = Stacked(name, {key: value.clone() for key, value in start.items()}, hp)
        for grad in grads:
            stack.step(grad)
        for trial in range(3):
            leaves = {key: value[trial].clone() for key, value in start.items()}
            oracle = torch.optim.Muon(leaves.values(), **kwargs)
            for grad in grads:
                for key, leaf in leaves.items():
                    leaf.grad = grad[key][trial]
                oracle.step()
            for key, leaf in leaves.items():
                torch.testing.assert_close(stack.params[key][trial], leaf, rtol=1e-12, atol=1e-12)


REFUSED = (InvalidInput, TypeError, ValueError)


def test_what_torch_refuses_is_refused(database):
    """But for what torch's Muon cannot do and ours can: parameters that are not 2-D take the fallback."""
    cases = database.optim_error_inputs_func(device="cpu", dtype=torch.float64)
    refused = 0
    for case in cases:
        given = case.optimizer_error_input
        kwargs = {"scale" if key == "adjust_lr_fn" else key: value for key, value in given.kwargs.items()}
        if given.desc == "only support 2D parameters":
            build("muon", given.params, **kwargs).step()
            continue
        with pytest.raises(REFUSED):
            build("muon", given.params, **kwargs).step()
        refused += 1
    assert refused >= 5
