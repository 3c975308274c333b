"""The kind of problem: declared, or told from the data."""

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from tuner.errors import InvalidInput
from tuner.noise import Kind
from tuner.workloads import Task, load, task


def of(*valid: Tensor, kind: str | None = None) -> str | None:
    return Task(nn.Linear(1, 1), torch.mean, train=valid, valid=valid, kind=kind).kind  # type: ignore[arg-type]


def test_a_declared_kind_stays_and_an_unknown_one_is_refused() -> None:
    assert of(torch.zeros(4, 3), torch.zeros(4), kind="language") == "language"
    with pytest.raises(
        InvalidInput, match="kind: is 'vision'; allowed are classification, regression, language, other"
    ):
        of(torch.zeros(4, 3), torch.zeros(4), kind="vision")


@pytest.mark.parametrize(
    ("valid", "kind"),
    [
        ((torch.rand(4, 3), torch.tensor([0, 1, 2, 1])), "classification"),
        ((torch.rand(4, 3), torch.tensor([0.0, 1.0, 1.0, 0.0])), "classification"),
        ((torch.rand(4, 3, 5, 5), torch.zeros(4, 5, 5, dtype=torch.int64)), "classification"),
        ((torch.zeros(4, 9, dtype=torch.int64), torch.tensor([0, 1, 2, 1])), "classification"),
        ((torch.zeros(4, 9, dtype=torch.int64), torch.ones(4, 9, dtype=torch.int64)), "language"),
        ((torch.rand(4, 3), torch.rand(4)), "regression"),
        ((torch.ones(4, 3), torch.ones(4, 3)), "other"),
        ((torch.rand(4, 3),), "other"),
        ((torch.rand(4, 3), torch.rand(4), torch.rand(4)), "other"),
    ],
)
def test_it_is_told_from_the_validation_data(valid: tuple[Tensor, ...], kind: str) -> None:
    assert of(*valid) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("digits-mlp", "classification"),
        ("digits-autoencoder", "other"),
        ("linear-regression", "regression"),
        ("logistic-regression", "classification"),
        ("rosenbrock", "other"),
    ],
)
def test_built_in_workloads(name: str, kind: str) -> None:
    assert load(name, {}).kind == kind


def test_workloads_and_advice_know_the_same_kinds() -> None:
    assert get_args(task.Kind) == get_args(Kind)
