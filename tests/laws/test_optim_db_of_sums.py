"""Every CPU configuration of torch's own test data base: K stacked configurations equal K runs of torch's optimizer.

Arguments that only choose an implementation (foreach, fused, capturable, differentiable) say nothing of the result;
`maximize` means negated gradients.
"""

import importlib.util
import sys
import types
import unittest
import warnings

import pytest
import torch
from optim_db_sums import MAPPING
from rule_oracles import ROLES, Quadratic

from tuner.errors import InvalidInput
from tuner.optimizers import Stacked, build

STEPS = 60


@pytest.fixture(scope="module")
def infos():
    """Name of torch's class -> its entry.

    The data base's module asks for expecttest, but uses none of it, and forbids to set any backend's flags.
    """
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(torch.backends, "disable_global_flags", lambda: None)
        if importlib.util.find_spec("expecttest") is None:
            stand_in = types.ModuleType("expecttest")
            stand_in.TestCase = unittest.TestCase
            patch.setitem(sys.modules, "expecttest", stand_in)
        from torch.testing._internal.common_optimizers import optim_db
    return {info.optim_cls.__name__: info for info in optim_db}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lone_run(kind, kwargs, params, problem):
    leaves = {key: param.clone() for key, param in params.items()}
    optimizer = kind(leaves.values(), **kwargs)
    for step in range(STEPS):
        for key, gradient in problem.gradients(leaves, step).items():
            leaves[key].grad = gradient
        optimizer.step()
    return leaves


@pytest.mark.parametrize("name", [name for name, translate in MAPPING.items() if translate is not None])
def test_stacked_configurations_equal_as_many_runs_of_torch(name, infos):
    info, problem = infos[name], Quadratic(torch.float64)
    configurations = [given.kwargs for given in info.optim_inputs_func(torch.device("cpu"))]
    assert len(configurations) > 3
    translated = [MAPPING[name](kwargs) for kwargs in configurations]
    (rule,) = {rule for rule, _ in translated}
    keys = sorted({key for _, hp in translated for key in hp})
    defaults = Stacked(rule, {"p": torch.ones(1, 1)}, {}).hp
    hp = {
        key: torch.tensor([float(own.get(key, defaults[key])) for _, own in translated], dtype=torch.float64)
        for key in keys
    }
    start = problem.start(len(configurations))
    stack = Stacked(rule, {key: param.clone() for key, param in start.items()}, hp, roles=ROLES)
    sign = torch.tensor([-1.0 if kwargs.get("maximize") else 1.0 for kwargs in configurations], dtype=torch.float64)
    for step in range(STEPS):
        gradients = problem.gradients(stack.params, step)
        stack.step({key: g * sign.reshape(-1, *(1,) * (g.dim() - 1)) for key, g in gradients.items()})
    for trial, kwargs in enumerate(configurations):
        expected = lone_run(info.optim_cls, kwargs, {key: p[trial] for key, p in start.items()}, problem)
        for key, value in expected.items():
            torch.testing.assert_close(stack.params[key][trial], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name, translate in MAPPING.items() if translate is not None])
def test_what_torch_refuses_is_refused(name, infos):
    rule, _ = MAPPING[name]({})
    refused = 0
    for error in infos[name].optim_error_inputs_func(torch.device("cpu"), torch.float64):
        given = error.optimizer_error_input
        if error.error_type is UserWarning:
            continue  # torch only warns of a parameter that is given twice; here it is refused, see test_build.py
        params = given.params if given.params is not None else [torch.nn.Parameter(torch.ones(2, 2))]
        with pytest.raises((InvalidInput, TypeError, ValueError)):
            build(rule, params, **MAPPING[name](given.kwargs)[1])
        refused += 1
    assert refused >= 8
