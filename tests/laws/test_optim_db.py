"""torch's own list of optimizer configurations and of errors, `optim_db`, held against our rules.

Every configuration of a class runs as one trial of a stack, in float64, and must equal torch's run of it to 1e-12;
`maximize` is the negated gradient. Every error case must be refused by `build`, which takes numbers where torch takes
numbers or tensors of one element: cases about tensors are refused for being tensors.
"""

import optim_db_first_order
import optim_db_sums
import pytest
import torch
from rule_oracles import ROLES, Quadratic
from torch_optim_db import IMPLEMENTATION, entries

from tuner.errors import InvalidInput
from tuner.optimizers import Stacked, build, catalogue
from tuner.optimizers.catalogue import defaults, program_key, vector_names

STEPS = 30
TRIALS_AT_LEAST = 2

MAPPING = {**optim_db_first_order.MAPPING, **optim_db_sums.MAPPING}
"""torch's class -> from its keyword arguments to our rule's name and hyperparameters."""

NOT_OFFERED = {
    "Adadelta": "superseded by Adam; no study has asked for it",
    "Adamax": "superseded by Adam",
    "ASGD": "its average begins at a step given in advance; schedule-free rules average from the start",
    "RAdam": "a warm-up of Adam, which schedules and moment_warmup offer for every rule",
    "Rprop": "for full batches only",
    "SparseAdam": "sparse gradients do not stack",
}
"""torch's class -> why it has no mapping."""

ELSEWHERE = {"LBFGS": "test_optim_db_line_search.py", "Muon": "test_optim_db_muon.py"}
"""Compared in files of their own: one takes many iterations per step, the other matrices only."""


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: worker processes that spin on each other's cores are many times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def database():
    return entries()


@pytest.fixture
def float64():
    """NAdam of torch keeps its product of momenta in the default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def number(value):
    return value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value


def configurations(info):
    """Return torch's keyword arguments of every configuration, tensors of one element as numbers."""
    found = []
    for given in info.optim_inputs_func(device="cpu"):
        kwargs = {key: number(value) for key, value in given.kwargs.items() if key not in IMPLEMENTATION}
        if kwargs not in found:
            found.append(kwargs)
    return found


def our_name_for(torch_class, kwargs):
    return MAPPING[torch_class]({key: value for key, value in kwargs.items() if key != "maximize"})


def grouped(torch_class, configs):
    """Return the configurations by what can be stepped together."""
    groups = {}
    for kwargs in configs:
        name, hp = our_name_for(torch_class, kwargs)
        groups.setdefault(program_key(name, {**defaults(name), **hp}), []).append((kwargs, name, hp))
    return list(groups.values())


def stack_of(group, start):
    name, first = group[0][1], group[0][2]
    hp = {key: value for key, value in first.items() if key not in vector_names(name)}
    for key in vector_names(name):
        hp[key] = torch.tensor([float(own.get(key, defaults(name)[key])) for _, _, own in group], dtype=torch.float64)
    return Stacked(name, {key: value.clone() for key, value in start.items()}, hp, roles=ROLES)


def run_torch(optim_cls, kwargs, start, problem):
    leaves = {key: value.clone() for key, value in start.items()}
    optimizer = optim_cls(leaves.values(), foreach=False, **kwargs)
    for step in range(STEPS):

        def closure(step=step):
            loss, grads = problem.at(step)({key: leaf[None] for key, leaf in leaves.items()})
            for key, gradient in grads.items():
                leaves[key].grad = gradient[0]
            return loss[0]

        optimizer.step(closure)
    return leaves


@pytest.mark.parametrize("torch_class", MAPPING)
def test_every_configuration_stacked_equals_torchs_own_run(torch_class, database, float64):
    problem, info = Quadratic(torch.float64), database[torch_class]
    configs = configurations(info)
    assert len(configs) >= TRIALS_AT_LEAST
    compared = 0
    for group in grouped(torch_class, configs):
        start = problem.start(len(group))
        stack = stack_of(group, start)
        signs = torch.tensor([-1.0 if kwargs.get("maximize") else 1.0 for kwargs, _, _ in group])
        for step in range(STEPS):
            grads = problem.gradients(stack.params, step)
            signed = {key: grad * signs.reshape(-1, *[1] * (grad.dim() - 1)) for key, grad in grads.items()}
            stack.step(signed, problem.at(step))
        for trial, (kwargs, _, _) in enumerate(group):
            expected = run_torch(info.optim_cls, kwargs, {key: p[trial] for key, p in start.items()}, problem)
            for key, value in expected.items():
                torch.testing.assert_close(stack.params[key][trial], value, rtol=1e-12, atol=1e-12, msg=str(kwargs))
            compared += 1
    assert compared == len(configs)


@pytest.mark.parametrize("torch_class", MAPPING)
def test_every_error_case_is_refused(torch_class, database):
    cases = database[torch_class].optim_error_inputs_func(device="cpu", dtype=torch.float64)
    assert cases
    for case in cases:
        given = case.optimizer_error_input
        kwargs = {key: value for key, value in given.kwargs.items() if key not in IMPLEMENTATION}
        name, hp = our_name_for(torch_class, kwargs)
        if "as a Tensor is not supported" in str(case.error_regex) or "both Tensors" in str(case.error_regex):
            build(name, [torch.nn.Parameter(torch.zeros(2))], **hp)  # torch's kernels cannot; here it is a number
        elif given.params is None:
            with pytest.raises(InvalidInput) as caught:
                build(name, [torch.nn.Parameter(torch.zeros(2))], **hp)
            wrong = {fault.field for fault in caught.value.faults}
            assert wrong, given.desc
            assert wrong <= set(hp), given.desc
        else:
            with pytest.raises((InvalidInput, case.error_type)):
                build(name, given.params, **hp)


def test_every_class_of_torch_is_compared_or_said_to_be_left_out(database):
    assert sorted(database) == sorted([*MAPPING, *NOT_OFFERED, *ELSEWHERE])
    assert not {torch_class for torch_class in NOT_OFFERED if torch_class.lower() in catalogue()}, "map it"
