"""What every update rule must satisfy, over the whole catalogue: right, isolated, exact at lr 0, resumable."""

import copy

import pytest
import torch
from oracles_torch import polar_by_newton_schulz
from rule_oracles import ROLES, STEPS, TOLERANCE, Quadratic, configurations, gathering, run_oracle

from tuner.optimizers import Stacked, build, catalogue
from tuner.optimizers.catalogue import rule_class

RULES = list(catalogue())
TRIALS = 5


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: worker processes that spin on each other's cores are many times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def oracle(monkeypatch):
    monkeypatch.setattr(torch.optim._muon, "_zeropower_via_newtonschulz", polar_by_newton_schulz)
    return run_oracle


def stack_of(name, params, hp):
    return Stacked(name, {key: value.clone() for key, value in params.items()}, hp, roles=ROLES)


def run(stack, problem, steps, first=0):
    for step in range(first, first + steps):
        stack.step(problem.gradients(stack.params, step), problem.at(step))
    return stack


def length(name):
    return STEPS.get(name, 80)


def assert_as_the_oracle(name, actual, expected):
    tolerance = TOLERANCE.get(name, 1e-12)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def assert_same_bits(left, right):
    assert left.keys() == right.keys()
    for key in left:
        assert torch.equal(left[key].nan_to_num(nan=1e30), right[key].nan_to_num(nan=1e30)), key


@pytest.mark.parametrize("name", RULES)
def test_a_stack_equals_as_many_lone_runs_of_an_independent_optimizer(name, oracle):
    problem = Quadratic(torch.float64)
    start, hp = problem.start(TRIALS), configurations(name, TRIALS)
    stack = run(stack_of(name, start, hp), problem, length(name))
    for trial in range(TRIALS):
        own_hp = {key: float(value[trial]) for key, value in hp.items()}
        expected = oracle(name, {key: value[trial] for key, value in start.items()}, own_hp, problem, length(name))
        for key, value in expected.items():
            assert_as_the_oracle(name, stack.params[key][trial], value)


@pytest.mark.parametrize("name", RULES)
def test_the_torch_optimizer_equals_an_independent_one(name, oracle):
    problem = Quadratic(torch.float64)
    start = {key: value[0] for key, value in problem.start(1).items()}
    hp = {key: float(value[0]) for key, value in configurations(name, 1).items()}
    leaves = {key: value.clone() for key, value in start.items()}
    for leaf in leaves.values():
        leaf.requires_grad_(rule_class(name).needs_curvature)
    optimizer = build(name, leaves.items(), roles=ROLES, **hp)
    for step in range(length(name)):

        def closure(step=step):
            loss, grads = problem.at(step)({key: leaf[None] for key, leaf in leaves.items()})
            if rule_class(name).needs_curvature:
                return loss[0]
            for key, gradient in grads.items():
                leaves[key].grad = gradient[0]
            return loss[0]

        optimizer.step(closure)
    for key, value in oracle(name, start, hp, problem, length(name)).items():
        assert_as_the_oracle(name, leaves[key], value)


@pytest.mark.parametrize("name", RULES)
def test_permuting_and_removing_trials_changes_no_bit(name):
    problem = Quadratic(torch.float32)
    start, hp = problem.start(64), configurations(name, 64)
    everything = run(stack_of(name, start, hp), problem, 6)
    for size in (1, 2, 3, 7, 16, 33, 63):
        chosen = torch.randperm(64, generator=torch.Generator().manual_seed(size))[:size]
        some_hp = {key: value[chosen] for key, value in hp.items()}
        some = run(stack_of(name, {key: value[chosen] for key, value in start.items()}, some_hp), problem, 6)
        assert_same_bits(some.params, {key: value[chosen] for key, value in everything.params.items()})
        whole = everything.state.tensors()
        assert_same_bits(some.state.tensors(), {key: value[chosen] for key, value in whole.items()})


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_poisoned_neighbour_changes_no_bit(name, poison):
    problem = Quadratic(torch.float32)
    start, hp = problem.start(TRIALS), configurations(name, TRIALS)
    clean = run(stack_of(name, start, hp), problem, 6)
    sick = {key: value.clone() for key, value in start.items()}
    for value in sick.values():
        value[2] = poison
    ill = run(stack_of(name, sick, hp), problem, 6)
    healthy = [0, 1, 3, 4]
    assert_same_bits({k: v[healthy] for k, v in ill.params.items()}, {k: v[healthy] for k, v in clean.params.items()})
    assert not any(value[2].isfinite().all() for value in ill.params.values())


@pytest.mark.parametrize("name", RULES)
def test_views_into_one_flat_buffer_give_the_same_bits(name):
    """The engine keeps all parameters of a slot in one row: odd offsets and strides must not matter."""
    problem = Quadratic(torch.float32)
    start, hp = problem.start(TRIALS), configurations(name, TRIALS)
    dense = run(stack_of(name, start, hp), problem, 6)
    flat = torch.zeros(TRIALS, 5 + sum(value[0].numel() for value in start.values()))
    views, offset = {}, 3
    for key, value in start.items():
        views[key] = flat[:, offset : offset + value[0].numel()].view(value.shape)
        views[key].copy_(value)
        offset += value[0].numel()
    strided = run(Stacked(name, views, hp, roles=ROLES), problem, 6)
    assert_same_bits(strided.params, dense.params)


@pytest.mark.parametrize("name", [name for name in RULES if rule_class(name).elementwise])
def test_elementwise_rules_do_not_care_where_one_parameter_ends(name):
    problem = Quadratic(torch.float32)
    start, hp = problem.start(TRIALS), configurations(name, TRIALS)
    apart = run(stack_of(name, start, hp), problem, 6)
    joined = Stacked(name, {"all": torch.cat([value.flatten(1) for value in start.values()], dim=1)}, hp)
    shapes = [value.shape for value in start.values()]
    for step in range(6):
        pieces = joined.params["all"].split([shape[1:].numel() for shape in shapes], dim=1)
        views = {key: piece.reshape(shape) for key, piece, shape in zip(start, pieces, shapes, strict=True)}
        joined.step({"all": torch.cat([g.flatten(1) for g in problem.gradients(views, step).values()], dim=1)})
    assert_same_bits(joined.params, {"all": torch.cat([value.flatten(1) for value in apart.params.values()], dim=1)})


@pytest.mark.parametrize("name", RULES)
def test_learning_rate_0_moves_no_parameter_but_its_memory(name):
    problem = Quadratic(torch.float32)
    start = problem.start(TRIALS)
    stack = run(stack_of(name, start, {**configurations(name, TRIALS), "lr": 0.0}), problem, 3)
    assert_same_bits(stack.params, start)
    assert (stack.state.step == 3).all() and stack.state.counts == (3,) * TRIALS
    if not rule_class(name).needs_loss:
        assert all((value != 0).any() for value in gathering(name, stack.state.tensors()))


@pytest.mark.parametrize("name", RULES)
def test_gradients_are_left_as_they_are(name):
    problem = Quadratic(torch.float32)
    start = problem.start(TRIALS)
    grads = problem.gradients(start, 0)
    stack_of(name, start, configurations(name, TRIALS)).step(before := copy.deepcopy(grads), problem.at(0))
    assert_same_bits(before, grads)


@pytest.mark.parametrize("name", RULES)
def test_a_restored_stack_continues_bit_for_bit(name):
    problem = Quadratic(torch.float32)
    start, hp = problem.start(TRIALS), configurations(name, TRIALS)
    straight = run(stack_of(name, start, hp), problem, 5)
    snapshot, params = straight.state_dict(), copy.deepcopy(straight.params)
    run(straight, problem, 5, first=5)
    resumed = Stacked(name, params, {}, roles=ROLES)
    resumed.load_state_dict(snapshot)
    run(resumed, problem, 5, first=5)
    assert_same_bits(resumed.params, straight.params)
    assert torch.equal(resumed.state.step, straight.state.step)


@pytest.mark.parametrize("name", RULES)
def test_state_has_the_declared_size(name):
    rule = rule_class(name)
    sizes = [len(rule.buffers(role)) for role in set(ROLES.values())]
    assert rule.info().state_per_parameter == max(sizes) and rule.info().memory
