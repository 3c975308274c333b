"""Choices of rules that sum over a trial's tensors, each against the independent optimizer that has it too."""

import pytest
import torch
from oracles_sums import prodigy, scion
from rule_oracles import ROLES, Quadratic, configurations

from tuner.optimizers import Stacked

STEPS = 60


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stepped(optimizers):
    """Return a whole run by a factory of objects whose `step()` moves parameters along their `grad`."""

    def run(params, hp, problem, steps):
        leaves = {key: param.clone() for key, param in params.items()}
        for leaf in leaves.values():
            leaf.grad = torch.zeros_like(leaf)
        made = optimizers(leaves, hp)
        for step in range(steps):
            for key, gradient in problem.gradients(leaves, step).items():
                leaves[key].grad.copy_(gradient)
            for optimizer in made:
                optimizer.step()
        return leaves

    return run


def prodigy_with(**choices):
    return stepped(lambda params, hp: prodigy(params, hp, **choices))


CASES = {
    "prodigy l2": ("prodigy", {"weight_decay_mode": "l2"}, prodigy_with(decouple=False)),
    "prodigy safeguard": ("prodigy", {"safeguard_warmup": "on"}, prodigy_with(safeguard_warmup=True)),
    "prodigy bias correction": ("prodigy", {"bias_correction": "on"}, prodigy_with(use_bias_correction=True)),
    "prodigy root of beta2": ("prodigy", {"beta3": 0.0}, stepped(lambda p, hp: prodigy(p, {**hp, "beta3": None}))),
    "scion constrained": ("scion", {"constrained": "yes"}, stepped(lambda p, hp: scion(p, hp, constrained=True))),
}


@pytest.mark.parametrize("case", CASES)
def test_a_choice_equals_lone_runs_of_an_independent_optimizer(case):
    name, choices, oracle = CASES[case]
    problem = Quadratic(torch.float64)
    start, hp = problem.start(3), configurations(name, 3)
    if name == "prodigy":  # from a larger first estimate the rounding of p0 - p does not show
        hp["d0"] = torch.tensor([1e-2, 3e-3, 3e-2], dtype=torch.float64)
    hp |= {key: torch.full((3,), value) for key, value in choices.items() if not isinstance(value, str)}
    stack = Stacked(name, {key: p.clone() for key, p in start.items()}, {**hp, **choices}, roles=ROLES)
    for step in range(STEPS):
        stack.step(problem.gradients(stack.params, step))
    for trial in range(3):
        own = {key: float(value[trial]) for key, value in hp.items()}
        expected = oracle({key: p[trial] for key, p in start.items()}, own, problem, STEPS)
        for key, value in expected.items():
            torch.testing.assert_close(stack.params[key][trial], value, rtol=1e-12, atol=1e-12)
