"""Every configuration that torch tests its LBFGS with: a stack of trials is as many runs of torch's."""

import pytest
import torch
from optim_db_line_search import MAPPING
from torch import nn
from torch_optim_db import entries

from tuner.errors import InvalidInput
from tuner.optimizers import Stacked, build

TRIALS = 3


ENTRIES = entries()
CASES = [
    pytest.param(name, case.kwargs, id=f"{name}-{case.desc}")
    for name in MAPPING
    for case in ENTRIES[name].optim_inputs_func("cpu")
]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Regression:
    """Linear regression of its own for each trial, with losses [T] and gradients for stacks and for lone runs."""

    def __init__(self):
        generator = torch.Generator().manual_seed(5)
        self.inputs = torch.randn(TRIALS, 20, 6, generator=generator, dtype=torch.float64)
        self.targets = torch.randn(TRIALS, 20, generator=generator, dtype=torch.float64)
        self.start = torch.randn(TRIALS, 6, generator=generator, dtype=torch.float64)

    def loss(self, weight, inputs, targets):
        residual = (inputs @ weight[..., None])[..., 0] - targets
        return (residual**2 + 0.1 * residual**4).mean(-1)

    def __call__(self, params):
        leaf = params["weight"].detach().requires_grad_()
        with torch.enable_grad():
            losses = self.loss(leaf, self.inputs, self.targets)
            gradient = torch.autograd.grad(losses.sum(), leaf)[0]
        return losses.detach(), {"weight": gradient}


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_stack_is_as_many_runs_of_torchs(name, options):
    problem, mapped = Regression(), MAPPING[name](dict(options))
    assert mapped is not None
    rule, hp = mapped
    stack = Stacked(rule, {"weight": problem.start.clone()}, hp)
    for _ in range(5):
        stack.step(problem(stack.params)[1], problem)
    for trial in range(TRIALS):
        leaf = nn.Parameter(problem.start[trial].clone())
        torchs = getattr(torch.optim, name)([leaf], **options)

        def closure(leaf=leaf, torchs=torchs, trial=trial):
            torchs.zero_grad()
            loss = problem.loss(leaf, problem.inputs[trial], problem.targets[trial])
            loss.backward()
            return loss.detach()

        for _ in range(5):
            torchs.step(closure)
        torch.testing.assert_close(stack.params["weight"][trial], leaf.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
@pytest.mark.parametrize("name", MAPPING)
def test_what_torch_refuses_is_refused(name):
    for case in ENTRIES[name].optim_error_inputs_func("cpu", torch.float64):
        error = case.optimizer_error_input
        with pytest.raises((InvalidInput, TypeError, ValueError)):
            build("lbfgs", error.params, **error.kwargs)


def test_a_second_group_is_refused_as_torch_does():
    p, q = (nn.Parameter(torch.ones(2)) for _ in range(2))
    with pytest.raises(ValueError, match="parameter groups"):
        torch.optim.LBFGS([{"params": [p]}, {"params": [q]}])
    with pytest.raises(InvalidInput, match="one group"):
        build("lbfgs", [{"params": [p]}, {"params": [q]}])
