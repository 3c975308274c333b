"""Factors of some parameters, over the whole catalogue: each class of parameters is a run with lr · f and wd · g.

The oracle is the independent optimizer of the other laws, run once per class with that class's numbers: gradients of
the problem are elementwise, so what a parameter becomes depends on no other one.
"""

from typing import Any

import pytest
import torch
from oracles_torch import polar_by_newton_schulz
from rule_oracles import ROLES, SHAPES, STEPS, TOLERANCE, Quadratic, configurations, run_oracle

from tuner.errors import InvalidInput
from tuner.optimizers import Stacked, build, catalogue
from tuner.optimizers.catalogue import rule_class
from tuner.study.parameter_groups import FACTORS, refusal

HONOURING = [name for name, info in catalogue().items() if info.parameter_groups]
REFUSING = [name for name, info in catalogue().items() if not info.parameter_groups]
TRIALS = 4
LR = torch.tensor([1.0, 0.25, 0.7, 1.0], dtype=torch.float64)
DECAY = torch.tensor([1.0, 0.0, 0.5, 2.0], dtype=torch.float64)
"""Factors of four trials; the last one has none of lr."""
Groups = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(torch.optim._muon, "_zeropower_via_newtonschulz", polar_by_newton_schulz)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def decays(name: str) -> bool:
    return refusal(catalogue()[name], "weight_decay_factor") is None


def groups_of(name: str, trial: int | None = None) -> Groups:
    """Groups that overlap: for all trials, or one trial's."""

    def at(values: torch.Tensor) -> Any:
        return values if trial is None else float(values[trial])

    groups: Groups = [{"match": "[th]*", "lr_factor": at(LR)}, {"match": "*a*", "lr_factor": at(LR)}]
    return [*groups, {"match": "*i*", "weight_decay_factor": at(DECAY)}] if decays(name) else groups


def factors(key: str, trial: int) -> tuple[float, float]:
    """What multiplies lr and weight decay of one parameter: by hand, for the groups above."""
    lr = float(LR[trial]) ** ((key[0] in "th") + ("a" in key))
    return lr, float(DECAY[trial]) if "i" in key else 1.0


def by_class(name: str, start: dict[str, torch.Tensor], hp: dict[str, float], trial: int, steps: int) -> Any:
    """Train each class of parameters by an independent optimizer."""
    problem, runs, found = Quadratic(torch.float64), {}, {}
    for key in SHAPES:
        lr, decay = pair = factors(key, trial)
        own = {**hp, "lr": hp["lr"] * lr}
        if "weight_decay" in own and decays(name):
            own["weight_decay"] *= decay
        if pair not in runs:
            runs[pair] = run_oracle(name, start, own, problem, steps)
        found[key] = runs[pair][key]
    return found


def run(stack: Stacked, problem: Quadratic, steps: int) -> Stacked:
    for step in range(steps):
        stack.step(problem.gradients(stack.params, step))
    return stack


def stack_of(name: str, start: dict[str, torch.Tensor], hp: Any, groups: Groups) -> Stacked:
    return Stacked(name, {key: value.clone() for key, value in start.items()}, hp, roles=ROLES, groups=groups)


@pytest.mark.parametrize("name", HONOURING)
def test_a_stack_is_as_many_independent_runs_of_each_class(name: str) -> None:
    problem, steps = Quadratic(torch.float64), STEPS.get(name, 80)
    start, hp = problem.start(TRIALS), configurations(name, TRIALS)
    stack = run(stack_of(name, start, hp, groups_of(name)), problem, steps)
    tolerance = TOLERANCE.get(name, 1e-12)
    for trial in range(TRIALS):
        own = {key: float(value[trial]) for key, value in hp.items()}
        expected = by_class(name, {key: value[trial] for key, value in start.items()}, own, trial, steps)
        for key, value in expected.items():
            torch.testing.assert_close(stack.params[key][trial], value, rtol=tolerance, atol=tolerance, msg=key)
    assert (stack.state.step == steps).all() and stack.state.counts == (steps,) * TRIALS


@pytest.mark.parametrize("name", HONOURING)
def test_the_torch_optimizer_is_a_run_of_each_class(name: str) -> None:
    problem, steps, trial = Quadratic(torch.float64), STEPS.get(name, 80), 1
    start = {key: value[trial] for key, value in problem.start(TRIALS).items()}
    hp = {key: float(value[trial]) for key, value in configurations(name, TRIALS).items()}
    leaves = {key: value.clone() for key, value in start.items()}
    optimizer = build(name, leaves.items(), roles=ROLES, groups=groups_of(name, trial), **hp)
    for step in range(steps):
        for key, gradient in problem.gradients(leaves, step).items():
            leaves[key].grad = gradient
        optimizer.step()
    tolerance = TOLERANCE.get(name, 1e-12)
    for key, value in by_class(name, start, hp, trial, steps).items():
        torch.testing.assert_close(leaves[key], value, rtol=tolerance, atol=tolerance, msg=key)


@pytest.mark.parametrize("name", HONOURING)
def test_factors_of_a_neighbour_change_no_bit(name: str) -> None:
    problem = Quadratic(torch.float32)
    start, hp = problem.start(TRIALS), configurations(name, TRIALS)
    whole = run(stack_of(name, start, hp, groups_of(name)), problem, 6)
    chosen = [3, 1]
    few = {key: value[chosen] for key, value in hp.items()}
    groups = [{k: v[chosen] if isinstance(v, torch.Tensor) else v for k, v in g.items()} for g in groups_of(name)]
    some = run(stack_of(name, {key: value[chosen] for key, value in start.items()}, few, groups), problem, 6)
    sick = {
        key: torch.where(torch.arange(TRIALS).reshape(-1, *[1] * (v.dim() - 1)) == 2, torch.nan, v)
        for key, v in start.items()
    }
    ill = run(stack_of(name, sick, hp, groups_of(name)), problem, 6)
    for key, value in whole.params.items():
        assert torch.equal(some.params[key], value[chosen])
        assert torch.equal(ill.params[key][[0, 1, 3]], value[[0, 1, 3]])
    for key, value in whole.state.tensors().items():
        assert torch.equal(some.state.tensors()[key], value[chosen])


@pytest.mark.parametrize("name", REFUSING)
def test_rules_that_move_all_parameters_as_one_refuse(name: str) -> None:
    start = Quadratic(torch.float64).start(1)
    wanted = f"{name} moves all parameters as one, so it takes no factors"
    with pytest.raises(InvalidInput, match=wanted):
        Stacked(name, start, {}, roles=ROLES, groups=[{"match": "bias", "lr_factor": 2.0}])
    with pytest.raises(InvalidInput, match=wanted):
        build(name, {key: value[0] for key, value in start.items()}.items(), groups=[{"depth_decay": 0.5}])
    rule = rule_class(name)
    assert rule.needs_loss or rule.one_rate
    assert all(refusal(rule.info(), factor) for factor in FACTORS)
