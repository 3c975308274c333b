"""A trial's first weights are those of a model built anew, whatever is kept between trials."""

import pytest
import torch
from engine_cases import small_task, spec
from model_kinds import KINDS, task_of
from torch import nn

from tuner.engine import Stack
from tuner.engine.initial_weights import InitialWeights
from tuner.engine.seeds import INITIALISATION, derive
from tuner.workloads import Task


class OwnStart(nn.Module):
    """Layers whose weights the model draws once more, like those of text-gpt."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 5)
        nn.init.normal_(self.linear.weight)


class OtherOrder(nn.Module):
    """A layer whose own weights are drawn before those of the parts that come later in its list."""

    def __init__(self) -> None:
        super().__init__()
        second = nn.Linear(7, 5)
        self.first = nn.Linear(7, 7)
        self.second = second


class Scaled(nn.Module):
    """A parameter beside the layers, drawn by the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 5)
        self.scale = nn.Parameter(torch.rand(5))


def task_with(model: type[nn.Module]) -> Task:
    base = small_task()
    return Task(model, base.loss, base.train, base.valid)


@pytest.mark.parametrize("kind", [*KINDS, OwnStart, OtherOrder, Scaled])
def test_they_are_those_of_a_new_model(kind: str | type[nn.Module]) -> None:
    """For seeds in any order; the generator of the process is not touched."""
    task = task_of(kind) if isinstance(kind, str) else task_with(kind)
    initial, state = InitialWeights(task), torch.get_rng_state()
    for seed in (5, 2**63 + 1, 5):
        found, expected = initial.model(seed).state_dict(), task.build_model(seed).state_dict()
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value), name
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("kind", "kept"), [("batch norm", True), (OwnStart, False), (OtherOrder, False)])
def test_a_model_is_kept_only_where_resetting_it_is_the_same(kind: str | type[nn.Module], kept: bool) -> None:
    initial = InitialWeights(task_of(kind) if isinstance(kind, str) else task_with(kind))
    assert (initial.model(1) is initial.model(2)) == kept


def test_a_slot_starts_with_them_in_the_stacks_type() -> None:
    task = task_of("batch norm")
    stack = Stack(task, width=2, micro_batch=4, dtype=torch.float64, path="eager")
    for seed in (3, 4):
        slot = stack.admit(spec(seed, "sgd", lr=0.1, seed=seed))
        assert slot is not None
    for slot, seed in enumerate((3, 4)):
        expected = task.build_model(derive(seed, INITIALISATION)).double().state_dict()
        for name, value in stack.weights(slot).items():
            assert torch.equal(value, expected[name]), name
